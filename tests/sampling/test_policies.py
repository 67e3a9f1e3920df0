"""Which views condition a frame."""

import numpy as np
import pytest

from configs import debug
from genvs_jax.geometry import camera_paths
from genvs_jax.sampling import policies

POSES = np.asarray(camera_paths.orbit(12, 30.0, 1.3))


def rng(seed=0):
  return np.random.default_rng(seed)


def test_input_only_never_takes_a_frame():
  chosen = policies.input_only(2)(POSES[:9], 2, 9, POSES[9], rng())
  assert chosen.tolist() == [[0, 1]]


def test_the_references_policy():
  """Inputs, up to four random earlier frames, and the last one."""
  policy = policies.reference(6, 4)
  assert policy(POSES[:1], 1, 1, POSES[1], rng()).tolist() == [[0] + [-1] * 5]
  assert policy(POSES[:3], 1, 3, POSES[3], rng()).tolist() == [
    [0, 1, 2, -1, -1, -1]
  ]
  seen = set()
  for seed in range(20):
    (row,) = policy(POSES[:10], 1, 10, POSES[10], rng(seed))
    assert row[0] == 0 and row[-1] == 9
    assert len(set(row)) == 6 and set(row[1:-1]) <= set(range(1, 9))
    seen |= set(row.tolist())
  assert seen == set(range(10))


def test_nearest_in_angle():
  policy = policies.nearest(3)
  (row,) = policy(POSES[:8], 1, 8, POSES[9], rng())
  # 0 is three steps away around the circle, 7 two, 6 three.
  assert row[0] == 7 and set(row[1:]) == {0, 6}


def test_anchors_come_first_and_hand_on_no_errors():
  order = policies.anchors_first(12, 4)
  assert order == [0, 3, 6, 9, 1, 2, 4, 5, 7, 8, 10, 11]
  assert policies.anchors_first(3, 6) == [0, 1, 2]
  assert sorted(policies.anchors_first(7, 3)) == list(range(7))
  # Two input views, the four anchors, and frames between that are left alone.
  poses = np.concatenate([POSES[:2], POSES[order]])
  policy = policies.anchors(3, 4)
  (row,) = policy(poses[:10], 2, 10, POSES[8], rng())
  assert row[0] == 2 + 3 and set(row) <= set(range(6))
  config = debug.get_config()
  config.rollout.policy, config.rollout.anchors = "anchors", 0
  with pytest.raises(ValueError, match=r"rollout\.anchors is 0, expected 1"):
    policies.build_policy(config, 1)


def test_a_second_pass_goes_on_from_what_it_has_drawn():
  """All frames are there: 0 to 3 drawn again, 4 left out, 5 to 9 old."""
  policy = policies.reference(3, 1)
  others = np.delete(POSES[:11], 1 + 4, 0)
  for seed in range(9):
    (row,) = policy(others, 1, 5, POSES[5], rng(seed))
    assert row[0] == 0 and row[-1] == 4 and row[1] not in (0, 4)
  # The first follows the last of the first pass.
  assert policy(POSES[1:], 1, 1, POSES[0], rng())[0, -1] == 10


def test_an_anchor_that_is_drawn_again_sees_the_other_anchors_alone():
  # An input, anchors 0, 3, 6 and 9, and what lies between.
  order = policies.anchors_first(12, 4)
  poses = np.concatenate([POSES[:1], POSES[order]])
  policy = policies.anchors(9, 4)
  others = np.delete(poses, 2, 0)
  (row,) = policy(others, 1, 2, poses[2], rng())
  assert set(row) - {-1} == {0, 1, 2, 3}
  others = np.delete(poses, 7, 0)
  (row,) = policy(others, 1, 7, poses[7], rng())
  assert set(row) - {-1} == {0, 1, 2, 3, 4}


def test_stochastic_takes_another_view_at_each_step():
  chosen = policies.stochastic(50)(POSES[:5], 1, 5, POSES[5], rng())
  assert chosen.shape == (50, 1)
  assert set(chosen.ravel().tolist()) == set(range(5))


def test_unknown_policies_are_refused():
  config = debug.get_config()
  config.rollout.policy = "best"
  with pytest.raises(
    ValueError, match="'best', expected one of input, reference"
  ):
    policies.build_policy(config, 1)
