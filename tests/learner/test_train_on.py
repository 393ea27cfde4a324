"""Whose labels train the weights: the fair control of structure learning."""

import pytest
import torch

from lds.errors import InputError
from lds.learner import FixedGraphLearner, StructureLearner
from lds.run import METHODS, BaselineConfig, TrainConfig
from lds.run._learner import EstimatorLearner, make_learner
from tests.learner.problems import blocks
from tests.oracles import same_bits

FROZEN = {"learn_structure": False, "max_epochs": 1, "inner_steps": 20, "samples": 2}
LEARNERS = {
    "fixed graph": lambda **options: FixedGraphLearner(steps=20, **options),
    "frozen": lambda **options: StructureLearner(**FROZEN, **options),
}


def without(part):
    """Return the data with the labels of a part turned to the other class."""
    data = blocks()
    data.y = torch.where(data[f"{part}_mask"], 1 - data.y, data.y)
    return data


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_the_same_as_with_masks_that_say_so(make):
    data = blocks()
    fit = make(train_on="train+val").fit(data, seed=1)
    moved = blocks()
    # The validation nodes train; a node that nothing looks at stands in for them, of those that test.
    moved.train_mask = data.train_mask | data.val_mask
    moved.val_mask = torch.zeros_like(data.val_mask)
    moved.val_mask[data.es_mask.nonzero()[0]] = True
    moved.es_mask = data.es_mask & ~moved.val_mask
    # Nodes of a mean are summed in another order.
    torch.testing.assert_close(fit.params, make().fit(moved, seed=1).params, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_whose_labels_count(make):
    plain = make(train_on="train+val").fit(blocks(), seed=1)
    assert not torch.equal(plain.logits, make().fit(blocks(), seed=1).logits)
    assert not torch.equal(plain.logits, make(train_on="train+val").fit(without("val"), seed=1).logits)
    assert same_bits(plain.params, make(train_on="train+val").fit(without("test"), seed=1).params)
    # Splits are what the data says again.
    data = blocks()
    for part in ("train", "val", "es", "test"):
        nodes = data[f"{part}_mask"]
        assert plain.accuracy(part) == float((plain.predict() == data.y)[nodes].double().mean())


def test_the_early_stopping_nodes_alone_choose_when_to_stop():
    """With the labels of train and validation nodes the same, only the choice of the step can differ."""
    first, second = (
        FixedGraphLearner(steps=60, train_on="train+val").fit(d, seed=1) for d in (blocks(), without("es"))
    )
    assert not same_bits(first.params, second.params)


def test_estimators():
    data = blocks()
    config = BaselineConfig("wine", "logreg", train_on="train+val")
    fit = EstimatorLearner(config).fit(data)
    moved = blocks()
    moved.train_mask, moved.val_mask = data.train_mask | data.val_mask, data.es_mask
    moved.es_mask = torch.zeros_like(data.val_mask)
    moved.es_mask[data.test_mask.nonzero()[0]] = True
    moved.test_mask = data.test_mask & ~moved.es_mask
    expected = EstimatorLearner(BaselineConfig("wine", "logreg")).fit(moved)
    assert (fit.predicted == expected.predicted).all()
    assert fit.loss("test") != EstimatorLearner(BaselineConfig("wine", "logreg")).fit(data).loss("test")


def test_the_configuration_reaches_every_learner_without_a_learned_structure():
    for method in METHODS:
        if method in ("lds", "knn-lds"):
            with pytest.raises(
                InputError, match=rf"belongs to methods that learn no structure, but {method} chooses θ"
            ):
                TrainConfig("cora", method, train_on="train+val")
        elif method == "auto":
            with pytest.raises(InputError, match=r"auto compares train with train\+val"):
                TrainConfig("cora", method, train_on="train+val")
        else:
            config = TrainConfig("cora", method, train_on="train+val")
            assert make_learner(config, blocks()).train_on == "train+val"


@pytest.mark.parametrize("make", [FixedGraphLearner, lambda **options: StructureLearner(**FROZEN, **options)])
def test_refused(make):
    with pytest.raises(InputError, match='train_on must be "train" or "train\\+val", got \'all\''):
        make(train_on="all")


def test_a_learned_structure_needs_the_validation_labels_for_itself():
    with pytest.raises(InputError, match="needs learn_structure=False"):
        StructureLearner(train_on="train+val")
