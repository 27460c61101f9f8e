"""Stop the processes of a fleet whose own process was killed. Run as a script; needs the standard library alone."""

import os
import signal
import subprocess
import sys
from contextlib import suppress


def send_signal(group: int, number: int) -> None:
    """Send a signal to a group of processes, if it still exists."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def groups_of(leader: int) -> list[int]:
    """Return the group of a process and those of its descendants; a SuperLink's apps have a group of their own."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
    groups, found = [leader], {leader}
    while new := [row for row in rows if row[1] in found and row[0] not in found]:
        found |= {row[0] for row in new}
        groups += [row[2] for row in new if row[2] not in groups]
    return groups


def main() -> None:
    """Read `+PID` and `-PID` lines until the input closes, then kill what was added and not removed."""
    leaders = set()
    for line in sys.stdin:
        (leaders.add if line[0] == "+" else leaders.discard)(int(line[1:]))
    for leader in leaders:
        for group in groups_of(leader):
            send_signal(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
