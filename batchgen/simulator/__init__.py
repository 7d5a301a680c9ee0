"""
How does an endpoint in front of Gemini's image models behave, without one?

`formats` reads a request, in whichever wire format it came, into one value (`asked`) and writes an answer
(`bodies.Answer`) in the same one: chat completions (`requests`, `bodies`, `events`), Google's own (`native`),
the Images API (`images`). Between them `endpoint` decides as `settings` tell it, free of transport, clock and
randomness; `answers` says what the model says, `paint` paints, `account` keeps the bill. `transport` puts it
into an httpx client in the same process, `app` on a socket.
"""

from batchgen.simulator.account import Account
from batchgen.simulator.endpoint import Decided, Endpoint
from batchgen.simulator.reply import Ending, Reply
from batchgen.simulator.settings import Faults, Latency, Settings

__all__ = ["Account", "Decided", "Ending", "Endpoint", "Faults", "Latency", "Reply", "Settings"]
