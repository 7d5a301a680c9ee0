"""
Is there money for this request, and what has it come to?

The budget of a run with what it has learned of prices: what is held back for a request is told by what the
like has cost so far, and what is near the limit or dearer than any before is told once.
"""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import TYPE_CHECKING

import anyio

from batchgen import pricing, providers
from batchgen.budget import Budget, Estimate
from batchgen.records import ZERO, Expect
from batchgen.worker import UNKNOWN_COST

if TYPE_CHECKING:
    from batchgen.budget import Reservation
    from batchgen.job import Endpoint
    from batchgen.ledger import Reader
    from batchgen.records import Outcome, Task

logger = logging.getLogger("batchgen")

_NEARLY = Decimal("0.8")
"""The share of the budget at which it is told, once."""


class Purse:
    """What one run may spend, holds back and has spent."""

    def __init__(self, limit: float | None, spent: Decimal, *, endpoint: Endpoint, reader: Reader) -> None:
        """
        Begin with what was spent before.

        :param limit: USD, ever, in this run directory; None is none.
        :param spent: USD that count against it already.
        :param reader: tells what earlier runs paid: a resumed run needs not be as careful as a first one.
        """
        self.settled = anyio.Event()
        """Set, and another one in its place, when money that was held back is free again or gone."""
        self._limit = None if limit is None else Decimal(str(limit))
        self._budget = Budget(self._limit, spent)
        nearly = None if self._limit is None else self._limit * _NEARLY
        self._notice = None if nearly is None or spent >= nearly else nearly
        self._overrun = False
        self._model = providers.models_of(endpoint.provider)
        self._estimates: dict[tuple[str, Expect], Estimate] = {}
        self._learned = {
            (model.id, expect): reader.costs(model.id, expect, most=Estimate.RECENT)
            for model in endpoint.provider.models
            for expect in Expect
        }

    @property
    def spent(self) -> Decimal:
        """USD, ever."""
        return self._budget.spent

    def reserve(self, task: Task) -> Reservation | None:
        """Money for one request; None when there is none for now, or for good: see `shortage`."""
        most, likely = self._worth(task)
        return self._budget.reserve(most, likely)

    def spare(self, task: Task, *, others: int) -> Reservation | None:
        """
        Money for a request that need not be; None where the rest of the run may want it.

        :param others: tasks on their way that may have to be asked for once more.
        """
        most, likely = self._worth(task)
        left = self._budget.left
        if left is not None and left < most * (1 + others):
            return None
        return self._budget.reserve(most, likely)

    def shortage(self, task: Task) -> str | None:
        """After `reserve` said no: that the budget is used up, in words; None if it is worth waiting."""
        _, likely = self._worth(task)
        if self._budget.could_fit_later(likely):
            return None
        return (
            f"the budget of ${self._limit:,.2f} has no room for another"
            f" {'answer' if task.expect is Expect.TEXT else 'picture'}"
            f" (${self.spent:,.4f} spent, ${likely:,.4f} needed)"
        )

    def release(self, hold: Reservation) -> None:
        """Give back what was held for a request that was not made."""
        self._budget.release(hold)
        self._wake()

    def book(self, task: Task, outcome: Outcome, hold: Reservation) -> Decimal:
        """Account for a request, and return what it counts for in USD."""
        cost = max(outcome.cost_usd or ZERO, outcome.billed_usd or ZERO)
        # What may have been billed without saying how much counts as a dear picture: a budget must not hope.
        # So does a picture that outlived the worker who bought it.
        orphaned = outcome.kind is None and outcome.cost_usd is None and self._model(task.model).price
        counted = hold.unanswered if orphaned or outcome.kind in UNKNOWN_COST else cost
        self._budget.settle(hold, counted)
        self._warn(task, cost, hold)
        if outcome.kind is None and outcome.cost_usd is not None:
            self._estimate(task.model, task.expect).observe(cost)
        self._wake()
        return counted

    def _wake(self) -> None:
        self.settled.set()
        self.settled = anyio.Event()

    def _worth(self, task: Task) -> tuple[Decimal, Decimal]:
        """What a request may cost at most, and what it will hardly pass."""
        estimate = self._estimate(task.model, task.expect)
        asking = pricing.asking(task, self._model(task.model)) or ZERO
        # A token has four bytes of English, three of Chinese.
        return estimate.most + asking, estimate.likely + asking / 2

    def _estimate(self, name: str, expect: Expect) -> Estimate:
        known = self._estimates.get((name, expect))
        if known is None:
            # Whoever is asked for words may draw all the same.
            careful = pricing.careful(self._model(name)) or ZERO
            learned = self._learned.get((name, expect), ())
            known = self._estimates[name, expect] = Estimate(careful, learned)
        return known

    def _warn(self, task: Task, cost: Decimal, hold: Reservation) -> None:
        if self._limit is None:
            return
        if self._notice is not None and self.spent >= self._notice:
            self._notice = None
            logger.warning(
                "%.0f %% of the budget is used: $%.2f of $%.2f", 100 * _NEARLY, self.spent, self._limit
            )
        if cost > hold.amount and not self._overrun:
            self._overrun = True
            logger.warning(
                "row %s was billed $%.4f, more than the $%.4f held back for it: dearer than any before,"
                " so the budget may be passed by the difference",
                task.id,
                cost,
                hold.amount,
            )
