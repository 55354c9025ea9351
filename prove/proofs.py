"""All proofs by name, in the order of the promises that they show."""

from __future__ import annotations

from prove import agreement, kills, powercut, same_id, stops
from prove.proof import Proof

PROOFS: dict[str, Proof] = {
    "kill": Proof((1, 3), "an acknowledged task survives kills of the server", kills.server_kills),
    "power": Proof((2,), "and power cuts", powercut.power_cuts),
    "workers": Proof((3,), "tasks of killed workers are run again in time", kills.worker_kills),
    "once": Proof((4,), "without faults nothing runs twice", kills.no_faults),
    "same_id": Proof((6,), "one id is one task", same_id.same_id),
    "sigterm": Proof((10,), "SIGTERM loses nothing and burns no attempt", stops.stops, timed=True),
    "model": Proof((15,), "engines agree with a dict", agreement.agreement),
}
