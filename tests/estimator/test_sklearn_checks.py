"""scikit-learn's own checks of an estimator."""

from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from lds import LDSClassifier

# Short fits: the checks look at the interface, and at an accuracy on well-separated classes.
SHORT = {"n_neighbors": 5, "metric": "minkowski", "inner_steps": 40, "max_epochs": 1, "samples": 2}


def expected_failures(estimator):
    return {
        "check_classifiers_classes": "takes -1 for a label, where it marks unlabelled rows; scikit-learn exempts its "
        "own semi-supervised estimators by their names",
    }


@parametrize_with_checks([LDSClassifier(**SHORT)], expected_failed_checks=expected_failures)
def test_sklearn_check(estimator, check):
    check(estimator)


def test_the_excluded_check_passes_under_the_name_that_scikit_learn_exempts():
    check_classifiers_classes("LabelSpreading", LDSClassifier(**SHORT))
