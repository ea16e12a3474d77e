"""A mitmproxy script, loaded before the addon: it sends a request while the scripts behind it are not `running` yet."""

import asyncio
import json
import logging

from mitmproxy import ctx

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})


async def running() -> None:
    (server,) = ctx.master.addons.get("proxyserver").servers
    reader, writer = await asyncio.open_connection(*server.listen_addrs[0][:2])
    headers = f"Host: llm.test\r\nConnection: close\r\nContent-Length: {len(BODY)}"
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n{BODY}".encode())
    answer = await reader.read()
    writer.close()
    try:
        code = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    except ValueError:
        code = "not JSON"
    logging.info("asked at the start: %s %s", answer.split()[1].decode(), code)
