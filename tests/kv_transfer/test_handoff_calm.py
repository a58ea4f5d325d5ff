"""Without misfortune every transfer comes to its end, woken by nothing but frames and ``due_in``: no lost
wake-up, whatever the order of layers, preemptions and copies.
"""

from __future__ import annotations

import pytest
from handoff_nodes import GOES, LAYOUT, NO_ROOM, NO_SEND
from hypothesis import given, settings
from hypothesis import strategies as st
from test_handoff_machine import EachLayerMachine, HandoffMachine, SmallFramesMachine

PARTS = st.floats(0, 1)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["step", "publish", "preempt", "wire"]),
        st.integers(0, 2),
        PARTS,
        st.integers(1, LAYOUT.layers),
    ),
    max_size=8,
)


class Calm:
    """Both nodes as they run: a poll comes when a frame has come, or when it is due."""

    def __init__(self, world: HandoffMachine) -> None:
        self.world = world

    def until_quiet(self) -> None:
        for _ in range(500):
            if not self._turn():
                return
        raise AssertionError("it never comes to rest")

    def _turn(self) -> bool:
        world = self.world
        world.deliver_all_in_order()
        world.receiver_polls()
        world.grant(0, 1)
        world.adopt(0)
        world.deliver_all_in_order()
        if not world.sender._transport.inbox and world.sender.due_in(world.now) > 0:
            return False
        world.sender_polls()
        return True

    def act(self, what: str, pick: int, part: float, layers: int) -> None:
        world = self.world
        if what == "step":
            world.compute_step(part, pick, answered=False)
        elif what == "publish":
            world.publish(pick, part, layers, pick)
        elif what == "preempt":
            world.retract_in_the_middle(pick, layers, late=part < 0.5)
        else:
            world.wire = (NO_ROOM, NO_SEND)[pick % 2]
            world.sender_polls()
            world.wire = GOES
            world.sender_polls()  # a wire that takes frames again wakes its sender


@pytest.mark.parametrize("world", [HandoffMachine, SmallFramesMachine, EachLayerMachine])
@settings(deadline=None, max_examples=60, database=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    buffers=st.integers(1, 4),
    polls=st.integers(0, 2),
    late=st.booleans(),
    steps=STEPS,
    rest=st.booleans(),
)
def test_without_misfortune_every_transfer_lands(
    world: type[HandoffMachine],
    lengths: list[int],
    buffers: int,
    polls: int,
    late: bool,
    steps: list[tuple[str, int, float, int]],
    rest: bool,
) -> None:
    machine = world()
    machine.source.buffers = buffers
    calm = Calm(machine)
    machine.some_are_granted(lengths, 1, polls, late)
    for step in steps:
        calm.act(*step)
        if rest:
            calm.until_quiet()
    machine.copies_take(polls, late)
    for _ in lengths:
        machine.commit(0)
    calm.until_quiet()
    assert [job.end for job in machine.jobs.values()] == ["done"] * len(lengths)
    machine.teardown()


def test_a_source_that_is_busy_with_what_was_dropped_is_asked_again() -> None:
    machine = HandoffMachine()
    machine.source.buffers = 1
    machine.some_are_granted([4], have=0, polls=2, late=False)
    machine.retract_in_the_middle(0, LAYOUT.layers, late=False)
    machine.commit(0)
    Calm(machine).until_quiet()
    assert [job.end for job in machine.jobs.values()] == ["done"]
