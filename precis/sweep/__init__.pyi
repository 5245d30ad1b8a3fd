from .config import load_sweep, parse_sweep
from .environment import cores, fingerprint
from .launch import Outcome, launch
from .overrides import override
from .plan import Plan, Planned, make_plan
from .signals import INTERRUPTED
from .spec import ArmSpec, Sweep, TaskSpec
from .status import DONE, State, Status, newest_record, read_plan, read_status, statuses
from .store.lock import is_held
from .trained import Trained, load_trained
from .trial import Trial

__all__ = [
    "DONE",
    "INTERRUPTED",
    "ArmSpec",
    "Outcome",
    "Plan",
    "Planned",
    "State",
    "Status",
    "Sweep",
    "TaskSpec",
    "Trained",
    "Trial",
    "cores",
    "fingerprint",
    "is_held",
    "launch",
    "load_sweep",
    "load_trained",
    "make_plan",
    "newest_record",
    "override",
    "parse_sweep",
    "read_plan",
    "read_status",
    "statuses",
]
