"""Scenarios: which units compete in training, testing and replay."""

import torch

from gr_cli.scenario import Scenario

COUNTS = [2, 2, 3]


def units(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().squeeze(1).tolist()


def test_class_incremental_units_are_the_classes_seen_so_far():
    scenario = Scenario("class")
    heads = scenario.task_units(COUNTS)
    assert scenario.unit_offsets(COUNTS) == [0, 2, 4]
    assert heads.shape == (3, 7)
    assert units(scenario.training_units(heads, 1)) == [0, 1, 2, 3]
    assert units(scenario.testing_units(heads, task=2, last_trained_task=1)) == [0, 1, 2, 3]
    assert units(scenario.testing_units(heads, task=0, last_trained_task=-1)) == list(range(7))


def test_active_classes_all_changes_training_only():
    scenario = Scenario("class", active_classes="all")
    heads = scenario.task_units(COUNTS)
    assert units(scenario.training_units(heads, 0)) == list(range(7))
    assert units(scenario.testing_units(heads, task=0, last_trained_task=0)) == [0, 1]


def test_labels_trick_lets_the_current_task_compete_on_its_samples_alone():
    scenario = Scenario("class", active_classes="task")
    heads = scenario.task_units(COUNTS)
    assert units(scenario.training_units(heads, 1)) == [2, 3]
    assert [units(row) for row in scenario.joint_units(heads, torch.tensor([2, 0]), 2)] == [[4, 5, 6], [0, 1]]
    # Replayed samples compete among all classes seen so far, and so do test samples.
    assert [units(row) for row in scenario.replay_units(heads, 1)] == [[0, 1, 2, 3]]
    assert units(scenario.competing_units(heads, 1)[0]) == [0, 1, 2, 3]
    assert units(scenario.testing_units(heads, task=0, last_trained_task=1)) == [0, 1, 2, 3]


def test_domain_incremental_tasks_share_their_units():
    scenario = Scenario("domain")
    heads = scenario.task_units([2, 2, 2])
    assert scenario.unit_offsets([2, 2, 2]) == [0, 0, 0]
    assert heads.shape == (3, 2)
    assert units(scenario.testing_units(heads, task=2, last_trained_task=0)) == [0, 1]


def test_task_incremental_units_are_those_of_the_task():
    scenario = Scenario("task")
    heads = scenario.task_units(COUNTS)
    assert units(scenario.training_units(heads, 1)) == [2, 3]
    assert units(scenario.testing_units(heads, task=0, last_trained_task=2)) == [0, 1]


def test_replay_has_one_target_per_earlier_head_in_the_task_scenario_only():
    for scenario_name, number in (("class", 1), ("domain", 1), ("task", 2)):
        scenario = Scenario(scenario_name)
        heads = scenario.task_units([2, 2, 2])
        assert scenario.known_units(heads, 2).shape[0] == number
        assert scenario.replay_units(heads, 2).shape[0] == number
    scenario = Scenario("class")
    heads = scenario.task_units(COUNTS)
    assert units(scenario.known_units(heads, 1)[0]) == [0, 1]
    assert units(scenario.replay_units(heads, 1)[0]) == [0, 1, 2, 3]


def test_task_of_unit_needs_disjoint_classes():
    heads = Scenario("class").task_units(COUNTS)
    assert Scenario("class").task_of_unit(heads, 2).tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert Scenario("task").task_of_unit(heads, 2) is None
    overlapping = torch.tensor([[True, True], [True, True], [True, True]])
    assert Scenario("class").task_of_unit(overlapping, 2) is None


def test_joint_training_separates_heads_in_the_task_scenario_only():
    owner = torch.tensor([0, 2])
    heads = Scenario("task").task_units(COUNTS)
    assert [units(row) for row in Scenario("task").joint_units(heads, owner, 2)] == [[0, 1], [4, 5, 6]]
    assert [units(row) for row in Scenario("class").joint_units(heads, owner, 2)] == [list(range(7))] * 2
