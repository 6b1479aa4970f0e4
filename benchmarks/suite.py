"""One round of the suite as a pyperf program: a worker process per case, which checks its peer and then times
it.

Run by `python -m benchmarks`, which starts the Valkey and writes the `Plan`.
"""

import json
import sys

import pyperf

from benchmarks.peers import Work
from benchmarks.plan import VARIABLE, Case, Plan
from benchmarks.requests import SIZES
from benchmarks.server import pin
from benchmarks.works import Measurement, WrongAnswerError


def main() -> None:
    """Measure every case of the plan; exits with 1 when a peer gives a wrong answer."""
    plan = Plan.from_environ()
    runner = pyperf.Runner(processes=1, program_args=("-m", "benchmarks.suite"))
    args = runner.parse_args()
    args.inherit_environ = [VARIABLE]
    for index, name in enumerate(plan.names):
        case = Case.named(name)
        if not args.worker:
            print(f"{index + 1}/{len(plan.names)} {name}", file=sys.stderr, flush=True)
            pin(plan.server_pid, plan.cores if case.work is Work.STAMPEDE else plan.cores[:1])
            args.loops = plan.loops.get(name, 0)
        _bench(runner, plan, case)


def _bench(runner: pyperf.Runner, plan: Plan, case: Case) -> None:
    size = SIZES[case.size]
    measurement = Measurement(case.peer, case.work, size, plan.endpoint, same_request=plan.same_request)
    try:
        runner.bench_time_func(case.name, measurement.time)
    except WrongAnswerError as error:
        sys.exit(f"{case.name}: {error}")
    except RuntimeError as error:  # a worker ended with an exit code; it has said why
        sys.exit(f"{case.name}: {error}")
    finally:
        measurement.close()
    if measurement.loader_calls_max:
        with open(plan.notes, "a") as notes:
            notes.write(json.dumps({"name": case.name, "loader_calls": measurement.loader_calls_max}) + "\n")


if __name__ == "__main__":
    main()
