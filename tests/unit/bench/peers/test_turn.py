"""What ranks have measured, put together."""

from __future__ import annotations

import json

from bagpipe_hpc.bench.peers.turn import RankTurn, TrainerTurn, joint_turn

OF_SERVER = RankTurn(peak_bytes=7, sent=((0.0, 100), (10.0, 100), (20.0, 300)))
FIRST = RankTurn(TrainerTurn(4.0, 12.0, 16.0, (0.4, 0.2), 30), sent=((0.0, 0), (20.0, 200)))
SECOND = RankTurn(TrainerTurn(5.0, 12.0, 17.0, (0.5, 0.3), 40), sent=((11.0, 5), (18.0, 5)))


def test_the_slowest_trainer_counts_and_losses_are_added() -> None:
    turn = joint_turn([OF_SERVER, FIRST, SECOND], num_samples=100, iterations=5, num_trainers=2)
    assert (turn.samples_per_second, turn.loss) == (20.0, 0.5)
    assert (turn.trainer_bytes, turn.other_bytes) == (40, 7)
    # From 12 to 17 seconds: 100 bytes of the server's 200 within ten seconds, 50 of the first trainer, none.
    assert turn.bytes_sent == (100 + 50) / 5 / 2


def test_on_one_host_no_bytes_are_counted() -> None:
    assert joint_turn([RankTurn(), RankTurn(FIRST.trainer), SECOND], 100, 5, 2).bytes_sent is None


def test_a_rank_survives_its_way_through_json() -> None:
    trainer = TrainerTurn(1.5, 10.0, 11.5, (0.7, 0.6), 100)
    for turn in (RankTurn(trainer, sent=((1.0, 2), (3.0, 4))), RankTurn(error="no memory"), RankTurn(peak_bytes=7)):
        assert RankTurn.of_json(json.loads(json.dumps(turn.to_json()))) == turn
