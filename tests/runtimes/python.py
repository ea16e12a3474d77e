import asyncio
import json
import sys
import urllib.error
import urllib.request

import aiohttp
import httpx
import requests


async def with_aiohttp(url: str, body: dict[str, object]) -> str:
    # Without trust_env it does not ask the environment for a proxy.
    async with aiohttp.ClientSession(trust_env=True) as session, session.post(url, json=body) as answer:
        return await answer.text()


def with_urllib(url: str, body: dict[str, object]) -> str:
    ask = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(ask) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()


url, *models = sys.argv[1:]
for model in models:
    body: dict[str, object] = {"model": model, "messages": []}
    print(httpx.post(url, json=body).text)
    print(requests.post(url, json=body).text)
    print(asyncio.run(with_aiohttp(url, body)))
    print(with_urllib(url, body))
