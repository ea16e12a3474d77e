// Sends through the proxy of the environment what NODE_USE_ENV_PROXY does not: everything in Node.js before 22.21 and
// 24.0, node:http and node:https before 24.5, and in any version the requests of an agent of the application's own.
// `force-stream run` names this file in NODE_OPTIONS.

"use strict";
const http = require("node:http");
const https = require("node:https");
const net = require("node:net");
const tls = require("node:tls");
const { Duplex } = require("node:stream");

// Deno reads NODE_OPTIONS as well, but uses the proxy anyway, and may deny us the environment.
const { HTTPS_PROXY, NO_PROXY } = process.versions.deno ? {} : process.env;
const proxy = HTTPS_PROXY?.startsWith("http://") && new URL(HTTPS_PROXY);
const excluded = (NO_PROXY ?? "").toLowerCase().split(/[\s,]+/).filter(Boolean);

function isDirect(host, port) {
  if (host === proxy.hostname && String(port) === proxy.port) return true;
  const covers = (entry) => entry === "*" || `.${host}`.endsWith(`.${entry.replace(/^\*?\./, "")}`);
  return excluded.some(covers);
}

// Gives a socket whose other end is that host and port.
function tunnel(host, port, done) {
  const path = `${net.isIPv6(host) ? `[${host}]` : host}:${port}`;
  const to = { host: proxy.hostname, port: proxy.port, method: "CONNECT", path, headers: { Host: path } };
  const request = http.request(to);
  request.once("error", done);
  request.once("connect", (response, socket) => {
    if (response.statusCode === 200) return done(null, socket);
    socket.destroy();
    done(new Error(`the proxy answered CONNECT ${path} with ${response.statusCode}`));
  });
  request.end();
}

// Such a socket at once: agents of others, such as agentkeepalive, do not wait for one.
class Tunnel extends Duplex {
  constructor(host, port) {
    super();
    this.to = [host, port];
  }
  _construct(done) {
    tunnel(...this.to, (error, socket) => {
      if (error) return done(error);
      this.socket = socket;
      socket.on("data", (data) => this.push(data) || socket.pause());
      socket.on("end", () => this.push(null));
      socket.on("error", (error) => this.destroy(error));
      socket.on("close", () => this.destroy());
      done();
    });
  }
  _read() {
    this.socket.resume();
  }
  _write(data, encoding, done) {
    this.socket.write(data, encoding, done);
  }
  _final(done) {
    this.socket.end(done);
  }
  _destroy(error, done) {
    this.socket?.destroy();
    done(error);
  }
}

function connectTls(options) {
  const through = new Tunnel(options.host, options.port);
  const encrypted = tls.connect({ ...options, socket: through });
  // An idle connection does not keep the process alive.
  for (const name of ["ref", "unref"]) {
    encrypted[name] = () => {
      through.socket?.[name]();
      return encrypted;
    };
  }
  return encrypted;
}

function patch(Agent, isSecure) {
  const original = Agent.prototype.createConnection;
  Agent.prototype.createConnection = function (options, done) {
    const { host = "localhost", port, socketPath } = options;
    if (this.options?.proxyEnv || socketPath || isDirect(host.toLowerCase(), port)) {
      return original.call(this, options, done);
    }
    if (isSecure) return connectTls({ ...options, host });
    tunnel(host, port, done);
  };
}

// Makes fetch connect in the same way. It leaves its dispatcher, whose class is exported nowhere, in a global.
function patchFetch() {
  void Headers; // loads fetch
  const key = Symbol.for("undici.globalDispatcher.1");
  if (!globalThis[key]) return;
  globalThis[key] = new globalThis[key].constructor({
    connect({ hostname, port, protocol, servername }, done) {
      const isSecure = protocol === "https:";
      const to = { host: hostname.replace(/^\[|\]$/g, ""), port: port || (isSecure ? 443 : 80) };
      const secure = { ...to, servername: servername ?? undefined, ALPNProtocols: ["http/1.1"] };
      let socket;
      if (isDirect(to.host, to.port)) socket = isSecure ? tls.connect(secure) : net.connect(to);
      else if (isSecure) socket = connectTls(secure);
      else return tunnel(to.host, to.port, done);
      socket.once("error", done);
      socket.once(isSecure ? "secureConnect" : "connect", () => {
        socket.off("error", done);
        done(null, socket);
      });
    },
  });
}

if (proxy) {
  patch(http.Agent, false);
  patch(https.Agent, true);
  if (!http.globalAgent.options.proxyEnv) patchFetch();
}
