"""What the service takes on: items, bodies and answers, each up to its bound and shared by weight."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

from paceline.api.errors import OverShare, TooLarge, Unavailable
from paceline.api.load_shedding import DECODED_BYTE_WEIGHT, LoadShedder, Reservation, Usage, compute_capacity
from paceline.config.server import ApiKeyConfig, ServerConfig
from paceline.model import Tenant

NOBODY = Tenant()


def limits_of(**given: object) -> ServerConfig:
    return ServerConfig.model_validate({"max_items": 10, "max_in_flight_items": 100, **given})


def shared(**weights: float) -> tuple[ServerConfig, dict[str, Tenant]]:
    keys = [ApiKeyConfig.model_validate({"name": name, "key": name * 16, "weight": weights[name]}) for name in weights]
    return limits_of(api_keys=keys), {name: Tenant(name, weight) for name, weight in weights.items()}


class Takes:
    """An open intake, and places in it that are held to the end."""

    def __init__(self, limits: ServerConfig) -> None:
        self.intake = LoadShedder()
        self.intake.start_accepting()
        self.limits = limits
        self.held = ExitStack()

    def place(self, tenant: Tenant = NOBODY) -> Reservation:
        return self.held.enter_context(self.intake.reserve(tenant, self.limits))

    def items(self, count: int, tenant: Tenant = NOBODY) -> None:
        self.place(tenant).reserve_items(count)


def test_as_many_whole_batches_fit_as_the_items_make():
    bounds = compute_capacity(
        ServerConfig(max_items=1000, max_in_flight_items=20_000, max_body=8 << 20, max_batch_response=64 << 20)
    )
    assert (bounds.items, bounds.body_bytes, bounds.response_bytes) == (20_000, 160 << 20, 1280 << 20)


def test_one_batch_always_fits_however_its_body_weighs():
    bounds = compute_capacity(
        ServerConfig(max_items=1000, max_in_flight_items=10, max_body=1 << 20, max_batch_response=2 << 20)
    )
    assert bounds.body_bytes == DECODED_BYTE_WEIGHT << 20
    assert bounds.response_bytes == 2 << 20


def test_a_full_service_refuses_and_takes_again_once_something_is_answered():
    takes = Takes(limits_of())
    takes.items(60)
    with takes.intake.reserve(NOBODY, takes.limits) as place:
        place.reserve_items(40)
        with pytest.raises(Unavailable) as full:
            takes.place()
        assert full.value.headers == {"retry-after": "1"}
    takes.items(40)


def test_more_than_it_ever_holds_is_too_large():
    with pytest.raises(TooLarge):
        Takes(limits_of()).items(101)


@pytest.mark.parametrize("fault", [False, True])
def test_whatever_is_held_is_given_back_when_the_request_ends(fault: bool):
    takes = Takes(limits_of())
    with suppress(ZeroDivisionError), takes.intake.reserve(NOBODY, takes.limits) as place:
        place.reserve_body(1000)
        place.reserve_items(7)
        assert place.reserve_response(500)
        place.release_response(200)
        assert 1 // (not fault)
    assert takes.intake.usage == Usage()


def test_a_service_that_leaves_is_unready_and_takes_all_the_same():
    takes = Takes(limits_of())
    takes.intake.mark_unready()
    assert (takes.intake.is_ready, takes.intake.is_accepting) == (False, True)
    takes.items(3)


def test_a_closed_service_takes_nothing_not_even_what_was_let_in_before():
    takes = Takes(limits_of())
    place = takes.place()
    takes.intake.stop_accepting()
    for late in (takes.place, lambda: place.reserve_items(1)):
        with pytest.raises(Unavailable) as refused:
            late()
        assert refused.value.code == "draining"


def test_bodies_are_refused_when_there_is_no_room_for_them():
    takes = Takes(limits_of(max_body="1KiB"))
    place = takes.place()
    place.reserve_body(10 * 1024)
    with pytest.raises(Unavailable):
        takes.place().reserve_body(1)
    place.reserve_body(9 * 1024)  # it proved lighter than it was told
    takes.place().reserve_body(1024)


def test_answers_are_kept_up_to_the_bound_and_while_it_is_reached_nothing_new_is_taken():
    takes = Takes(limits_of(max_batch_response="1KiB"))
    place = takes.place()
    assert place.reserve_response(10 * 1024 - 1)
    assert not place.reserve_response(2)
    takes.place()
    assert place.reserve_response(2, force=True)
    with pytest.raises(Unavailable):
        takes.place()
    place.release_response(2)
    takes.place()


def test_alone_a_caller_may_fill_half_the_service_and_what_its_share_allows_beyond():
    limits, tenants = shared(a=3, b=1)
    takes = Takes(limits)
    takes.items(50, tenants["a"])
    takes.items(25, tenants["a"])
    with pytest.raises(OverShare) as over:
        takes.items(1, tenants["a"])
    assert over.value.headers == {"retry-after": "1"}
    takes.items(25, tenants["b"])


def test_a_caller_of_little_weight_may_use_what_nobody_else_wants():
    limits, tenants = shared(a=3, b=1)
    takes = Takes(limits)
    takes.items(50, tenants["b"])
    with pytest.raises(OverShare):
        takes.items(1, tenants["b"])
    takes.items(50, tenants["a"])


def test_who_holds_nothing_is_never_over_its_share():
    limits, tenants = shared(a=9, b=1)
    takes = Takes(limits)
    takes.items(60, tenants["a"])
    takes.items(20, tenants["b"])
    with pytest.raises(OverShare):
        takes.items(1, tenants["b"])


def test_a_full_service_is_full_for_who_is_within_its_share():
    limits, tenants = shared(a=1, b=1, c=1)
    takes = Takes(limits)
    takes.items(50, tenants["a"])
    takes.items(50, tenants["b"])
    with pytest.raises(Unavailable):
        takes.items(1, tenants["c"])
    with pytest.raises(OverShare):
        takes.items(1, tenants["a"])


def test_bodies_are_shared_as_items_are():
    limits, tenants = shared(a=1, b=1)
    takes = Takes(limits)
    most = compute_capacity(limits).body_bytes
    takes.place(tenants["a"]).reserve_body(most // 2)
    with pytest.raises(OverShare):
        takes.place(tenants["a"]).reserve_body(1)
    takes.place(tenants["b"]).reserve_body(most // 2)


def test_where_everybody_is_the_same_caller_there_are_no_shares():
    takes = Takes(limits_of())
    takes.items(60)
    takes.items(40)


def test_who_watches_is_told_when_answers_crowd_the_service_and_when_an_eighth_is_free():
    takes = Takes(limits_of(max_in_flight_items=10, max_batch_response=800))
    told: list[bool] = []
    place, other = takes.place(), takes.place()
    place.add_response_memory_listener(lambda: told.append(place.is_response_memory_full))
    other.reserve_response(799)
    assert told == []
    place.reserve_response(500, force=True)  # what is needed is kept whatever there is room for
    assert told == [True]
    place.release_response(500)
    other.release_response(99)
    assert told == [True]
    other.release()
    assert told == [True, False]
    place.release()
    takes.place().reserve_response(800)
    assert told == [True, False]  # it has left
