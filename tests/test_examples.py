"""Every answer that is documented, or was seen, is read as what it means."""

from __future__ import annotations

import pytest

from batchgen.dialects import DIALECTS
from batchgen.records import Failure
from tests.examples import EXAMPLES, Bad, Example


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_is_read_as_what_it_means(example: Example) -> None:
    dialect = DIALECTS[example.dialect]
    found = dialect.read(example.status, {}, example.body.encode(), now=1_800_000_000)
    if not isinstance(example.expected, Bad):
        assert found == example.expected
        return
    assert isinstance(found, Failure)
    assert example.expected.message in found.message
    assert example.expected == Bad(
        kind=found.kind,
        message=example.expected.message,
        retry_after=found.retry_after,
        text=found.text,
        finish_reason=found.finish_reason,
        usage=found.usage,
        request_id=found.request_id,
    )
    assert found.http_status == example.status
