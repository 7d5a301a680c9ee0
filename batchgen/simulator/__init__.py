"""
How does a Gemini image model behind an OpenAI-compatible chat endpoint behave, without one?

`endpoint` decides every answer as `settings` tell it, free of transport, clock and randomness; `transport`
puts it into an httpx client in the same process, `app` on a socket. Its pictures are painted by `paint`,
its bill is kept in `account`.
"""

from batchgen.simulator.account import Account
from batchgen.simulator.endpoint import Ending, Endpoint, Reply
from batchgen.simulator.settings import Faults, Settings

__all__ = ["Account", "Ending", "Endpoint", "Faults", "Reply", "Settings"]
