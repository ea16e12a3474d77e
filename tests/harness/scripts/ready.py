"""A mitmproxy script, loaded last: one log line when the start is over and nothing can end the process any more.

mitmproxy listens before it calls the scripts' `running`, and exits if one of those logs an error; requests before that
line would meet addons that are half set up.
"""

import asyncio
import logging

from mitmproxy import ctx


class Ready:
    def running(self) -> None:
        self._saying = asyncio.create_task(self._say())

    async def _say(self) -> None:
        check = ctx.master.addons.get("errorcheck")
        while check and check.logger in logging.getLogger().handlers:  # noqa: ASYNC110 - mitmproxy has no event for it
            await asyncio.sleep(0)
        logging.info("mitmdump is ready")


addons = [Ready()]
