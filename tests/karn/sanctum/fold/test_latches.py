"""Lights are a join semilattice: order, repetition and division do not matter."""

from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.fold.latches import Latches
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import GROUPS, PHASES

heads = st.sampled_from([*HEAD_NAMES, *GROUPS, "mystery"])
sightings = st.fixed_dictionaries(
    {
        "head": heads,
        "quantity": st.sampled_from(["logits", "ratio", "gradient", "novelty"]),
        "kind": st.sampled_from(["nan", "+inf", "-inf"]),
        "epoch": st.integers(0, 2),
        "minibatch": st.integers(0, 2),
        "phase": st.sampled_from([*PHASES, "of tomorrow"]),
        "host": st.none() | st.integers(0, 2),
        "step": st.none() | st.integers(1, 2),
        "part": st.sampled_from(["", "bias", "weight"]),
        "reproduced": st.booleans(),
    }
)
updates = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.dictionaries(heads.filter(lambda head: head not in GROUPS), st.booleans(), max_size=3),
        st.dictionaries(heads.filter(lambda head: head not in GROUPS), st.booleans(), max_size=3),
        st.lists(sightings, max_size=3),
    ),
    max_size=8,
)


def lights(snapshot):
    tamiyo = snapshot.tamiyo
    return (
        tamiyo.head_inf_latch,
        tamiyo.head_nan_latch,
        tamiyo.group_inf_latch,
        tamiyo.group_nan_latch,
        tamiyo.first,
    )


@given(updates, st.randoms(use_true_random=False))
def test_lights_are_the_same_in_any_order_and_with_any_repetition(
    payloads, fold_events, described, random
):
    events = payloads.events(
        payloads.start(),
        *(
            payloads.update(
                update,
                head_inf_detected=inf,
                head_nan_detected=nan,
                head_nonfinite=[payloads.sighting(**one) for one in seen],
            )
            for update, inf, nan, seen in described
        ),
    )
    shuffled = [*events, *random.choices(events, k=len(events))]
    random.shuffle(shuffled)

    assert lights(fold_events([events[0], *shuffled])) == lights(fold_events(events))


@given(updates, st.integers(0, 8))
def test_lights_of_two_readers_joined_are_those_of_one(payloads, described, cut):
    found = [
        Latches.of(
            payloads.update(
                update,
                head_inf_detected=inf,
                head_nan_detected=nan,
                head_nonfinite=[payloads.sighting(**one) for one in seen],
            )
        )
        for update, inf, nan, seen in described
    ]

    def joined(parts):
        whole = Latches()
        for part in parts:
            whole = whole.join(part)
        return whole

    left, right = joined(found[:cut]), joined(found[cut:])
    assert left.join(right) == right.join(left) == joined(found)
    assert left.join(left) == left
