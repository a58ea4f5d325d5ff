from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pagewire.messages import RequestId
from pagewire.priority import AGE_S, PRIORITIES
from router.fair_queue import Entry, FairQueue

QUANTUM = 100

costs = st.integers(1, QUANTUM)


def push(
    queue: FairQueue, name: str, tenant: str = "", cost: int = 1, now: float = 0.0, priority: int = 0
) -> None:
    queue.push(now, RequestId(name), tenant, cost, priority)


def drain(queue: FairQueue) -> list[Entry]:
    return [queue.pop() for _ in range(len(queue))]


def names(queue: FairQueue) -> list[str]:
    return [entry.request for entry in drain(queue)]


def test_nothing_waits_in_an_empty_queue() -> None:
    assert FairQueue().head() is None


def test_first_come_first_served_within_a_tenant() -> None:
    queue = FairQueue()
    for name in "abc":
        push(queue, name)
    assert names(queue) == ["a", "b", "c"]


def test_the_lower_priority_goes_first() -> None:
    queue = FairQueue()
    push(queue, "later", priority=1)
    push(queue, "usual")
    push(queue, "sooner", priority=-1)
    assert names(queue) == ["sooner", "usual", "later"]


def test_whoever_has_waited_long_enough_goes_before_an_urgent_newcomer() -> None:
    queue = FairQueue()
    push(queue, "patient", priority=1)
    push(queue, "urgent", now=2 * AGE_S + 0.1, priority=-1)
    assert names(queue) == ["patient", "urgent"]


def test_priorities_beyond_the_range_count_as_its_end() -> None:
    queue = FairQueue()
    push(queue, "first", priority=PRIORITIES[0])
    push(queue, "second", priority=-(1 << 40))
    assert names(queue) == ["first", "second"]


def test_tenants_take_turns() -> None:
    queue = FairQueue(QUANTUM)
    for number in range(4):
        push(queue, f"a{number}", "a", cost=QUANTUM)
    for number in range(2):
        push(queue, f"b{number}", "b", cost=QUANTUM)
    assert names(queue) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_tenant_is_not_overtaken_by_anothers_urgency() -> None:
    queue = FairQueue(QUANTUM)
    push(queue, "a", "a", cost=QUANTUM)
    for number in range(3):
        push(queue, f"b{number}", "b", cost=QUANTUM, priority=PRIORITIES[0])
    assert names(queue).index("a") <= 1


def test_one_that_costs_many_quanta_gets_its_turn() -> None:
    queue = FairQueue(QUANTUM)
    push(queue, "big", "a", cost=10 * QUANTUM)
    for number in range(30):
        push(queue, f"b{number}", "b", cost=QUANTUM)
    assert 9 <= names(queue).index("big") <= 11


def test_who_leaves_is_not_served_and_costs_nothing() -> None:
    queue = FairQueue()
    push(queue, "a", cost=5)
    push(queue, "b", cost=7)
    assert queue.remove(RequestId("a"))
    assert not queue.remove(RequestId("a"))
    assert queue.tokens() == {"": 7}
    assert names(queue) == ["b"]


def test_a_turn_is_not_saved_up_by_who_has_nothing_waiting() -> None:
    queue = FairQueue(QUANTUM)
    for number in range(5):
        push(queue, f"a{number}", "a")
        assert queue.pop().tenant == "a"
    for number in range(3):
        push(queue, f"a{5 + number}", "a", cost=QUANTUM)
        push(queue, f"b{number}", "b", cost=QUANTUM)
    assert "".join(entry.tenant for entry in drain(queue)) == "ababab"


acts = st.lists(
    st.tuples(st.sampled_from("abc"), costs, st.integers(-3, 3), st.sampled_from(["push", "pop", "remove"])),
    max_size=60,
)


@given(acts)
def test_each_request_ends_once(acts: list[tuple[str, int, int, str]]) -> None:
    queue, pushed, ended = FairQueue(QUANTUM), Counter[str](), Counter[str]()
    for number, (tenant, cost, priority, act) in enumerate(acts):
        if act == "push" or not queue:
            push(queue, str(number), tenant, cost, float(number), priority)
            pushed[str(number)] += 1
        elif act == "pop":
            ended[queue.pop().request] += 1
        elif queue.remove(RequestId(next(iter(pushed - ended)))):
            ended[next(iter(pushed - ended))] += 1
        assert len(queue) == (pushed - ended).total()
    ended.update(names(queue))
    assert ended == pushed
    assert queue.tokens() == {}


@given(acts)
def test_somebody_is_next_whenever_anybody_waits(acts: list[tuple[str, int, int, str]]) -> None:
    queue = FairQueue(QUANTUM)
    for number, (tenant, cost, priority, act) in enumerate(acts):
        if act == "push" or not queue:
            push(queue, str(number), tenant, cost, float(number), priority)
        head = queue.head()
        assert head is not None
        assert queue.head() == head
        if act == "pop":
            assert queue.pop() == head


@given(st.lists(st.lists(costs, min_size=40, max_size=40), min_size=2, max_size=4), st.integers(0, 30))
def test_a_backlogged_tenant_has_its_share_of_every_window(wanted: list[list[int]], skip: int) -> None:
    """Each gets what the others got, less a quantum and the one request that did not fit in it any more."""
    queue = FairQueue(QUANTUM)
    for tenant, each in enumerate(wanted):
        for number, cost in enumerate(each):
            push(queue, f"{tenant}.{number}", str(tenant), cost)
    got = Counter[str]()
    for count in range(40):  # none of them can have run out by then
        entry = queue.pop()
        if count >= skip:
            got[entry.tenant] += entry.cost
        fair = got.total() / len(wanted)
        assert all(got[str(tenant)] >= fair - 2 * QUANTUM for tenant in range(len(wanted)))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(-20, 20)), min_size=2, max_size=30))
def test_nobody_is_overtaken_for_longer_than_the_range_of_priorities(given: list[tuple[float, int]]) -> None:
    queue, bound = FairQueue(), AGE_S * (len(PRIORITIES) - 1)
    came = {str(number): now for number, (now, _) in enumerate(given)}
    for number, (now, priority) in enumerate(given):
        push(queue, str(number), now=now, priority=priority)
    order = [came[name] for name in names(queue)]
    latest = [max(order[: place + 1]) for place in range(len(order))]
    assert all(before - mine <= bound for before, mine in zip(latest, order, strict=True))


@given(st.lists(st.integers(-2, 2), max_size=30))
def test_in_order_within_a_tenant_and_a_priority(priorities: list[int]) -> None:
    queue = FairQueue()
    for number, priority in enumerate(priorities):
        push(queue, str(number), now=float(number), priority=priority)
    served = [int(name) for name in names(queue)]
    for priority in set(priorities):
        same = [number for number in served if priorities[number] == priority]
        assert same == sorted(same)
