"""One settle over a connection of its own that blocks: for a process whose event loop will never run again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from jobpipe.client.address import Address
from jobpipe.client.blocking import BlockingConnection
from jobpipe.client.claims import settle_body
from jobpipe.client.destination import destinations
from jobpipe.client.errors import error_of
from jobpipe.core.lifecycle import Outcome
from jobpipe.core.task import Claim

ANSWER_S = 5.0


def tell(
    servers: Sequence[Address], headers: Mapping[str, str], outcomes: Iterable[tuple[Claim, Outcome]]
) -> None:
    """Deliver the outcomes, once. Raises JobpipeError; then the leases are left to run out."""
    body = b"[%b]" % b",".join([settle_body(claim, outcome) for claim, outcome in outcomes])
    answer = BlockingConnection(destinations(servers, headers)).post("/settle", body, ANSWER_S)
    if answer.status != 200:
        raise error_of(answer.status, answer.body)
