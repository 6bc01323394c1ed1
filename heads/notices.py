"""The codes of all notices, and the notices that several heads give; `featurecache.notices` defines a notice."""

from enum import StrEnum

from featurecache.notices import Notice, Remedy, to_dicts

__all__ = ["Code", "Notice", "Remedy", "not_converged", "to_dicts"]


class Code(StrEnum):
    """What a notice is about."""

    # The classes of a data set
    SUSPICIOUS_CLASS = "suspicious_class"
    """The name of a class is that of a placeholder for a missing label, of a split, or a number that is not whole."""
    SIMILAR_CLASSES = "similar_classes"
    """Names of classes differ in case, blanks or the form of their letters alone."""

    # A training
    NOT_CONVERGED = "not_converged"
    """The solver reached its limit of iterations."""
    LIBRARY_WARNING = "library_warning"
    """A library that trained the head issued a warning that has no code of its own."""
    SINGLE_ROW_CLASS = "single_row_class"
    """A class has one row, so that probabilities were calibrated on training scores."""
    SHARED_GROUPS = "shared_groups"
    """All rows of a class belong together, so that probabilities were calibrated on rows whose group was known."""
    CONSTANT_PROBABILITY = "constant_probability"
    """Scores of held-out rows do not tell a class from the rest: its probability is the same for every row."""
    NOT_CALIBRATED = "not_calibrated"
    """The rows that calibrate are all right, and determine no temperature."""
    FEW_CALIBRATION_ROWS = "few_calibration_rows"
    """There are few rows for isotonic calibration."""
    FEW_NEIGHBORS = "few_neighbors"
    """There are fewer training rows than neighbors asked for."""
    NO_VARIANCE = "no_variance"
    """No feature varies within any class."""
    NO_IMAGENET_CLASS = "no_imagenet_class"
    """A class has no ImageNet class that stands for it."""
    OTHER_ROWS = "other_rows"
    """The training went on from a head that was trained on other rows."""
    RELABELLED_ROWS = "relabelled_rows"
    """Rows have other labels than when they trained the head that grew."""

    # The rows of a cache
    UNLABELLED_ROWS = "unlabelled_rows"
    """Rows without a label were left out."""
    UNUSED_ROWS = "unused_rows"
    """Labelled rows belong to no split that is used."""
    NO_VALID_ROWS = "no_valid_rows"
    """There are no rows to evaluate the training on."""
    UNEVEN_HOLDOUT = "uneven_holdout"
    """The share of held-out rows differs from what was asked for."""
    CLASS_NOT_EVALUATED = "class_not_evaluated"
    """A class has no row among those that evaluate the head."""
    CLASS_NOT_TRAINED = "class_not_trained"
    """A class has no training row: its probability is always 0."""
    ACCURACY_OF_SAMPLE = "accuracy_of_sample"
    """The train accuracy was measured on a sample of the training rows."""

    UNMATCHED_LABELS = "unmatched_labels"
    """Given labels are of images that the cache does not have."""

    # Images
    DARK_IMAGES = "dark_images"
    """Samples of more than 8 bits use the low bits alone, so that the images become nearly black."""
    UNREAD_IMAGES = "unread_images"
    """Images of a cache could not be read for now; they stay as an earlier run found them."""

    # An evaluation
    UNDEFINED_SCORE = "undefined_score"
    """A score is not defined for these rows."""
    TRAINING_ROWS = "training_rows"
    """The head is evaluated on rows that trained it."""
    CALIBRATION_ROWS = "calibration_rows"
    """The head is evaluated on rows that its calibration was fitted on."""
    CLASS_UNKNOWN_TO_HEAD = "class_unknown_to_head"
    """Rows are of classes that the head does not know."""
    THRESHOLDS_FROM_ROWS = "thresholds_from_rows"
    """The thresholds of several labels were chosen on the rows that evaluate the head."""
    BELOW_BASELINE = "below_baseline"
    """The majority baseline is at least as accurate."""

    # A learning curve
    ONE_RUN = "one_run"
    """There is one run, so that intervals do not include the choice of training rows."""
    NO_FORECAST = "no_forecast"
    """There are too few sizes for a forecast."""
    FEWER_ROWS_BETTER = "fewer_rows_better"
    """A smaller training set scored significantly higher than the full one."""

    # An audit
    TOO_MANY_DUPLICATES = "too_many_duplicates"
    """The similarity limit makes most rows near-duplicates of others."""
    LABELS_NOT_CHECKED = "labels_not_checked"
    """Labels of some or all rows could not be checked."""

    # A sweep
    WITHIN_NOISE = "within_noise"
    """Other heads and taps are within noise of the best."""
    BEYOND_NOISE = "beyond_noise"
    """No other head and tap is within noise of the best."""
    OPTIMISTIC_ACCURACY = "optimistic_accuracy"
    """The best of many tries on the same rows has an optimistic accuracy."""
    EDGE_OF_GRID = "edge_of_grid"
    """The best value of a parameter is the lowest or the highest that was tried."""
    FAILED_CANDIDATES = "failed_candidates"
    """Candidates could not be trained or evaluated."""
    SAME_CONTENT = "same_content"
    """Rows that evaluate have the content of training rows."""
    TORN_GROUPS = "torn_groups"
    """Rows that evaluate are of groups that have training rows."""
    FEW_GROUPS = "few_groups"
    """The rows are of so few groups that intervals are too narrow."""
    NO_GROUPS = "no_groups"
    """The head was trained with groups, and the rows that evaluate it have none."""
    ROWS_BY_HOLDOUT = "rows_by_holdout"
    """The rule that held rows out of the head's training chose the rows of another cache."""
    TIME_OVER = "time_over"
    """The time of the sweep was over before all candidates were tried."""
    STOPPED_EARLY = "stopped_early"
    """Heads were tried on a sample of the training rows only, since others were better there."""
    OTHER_ACCURACY = "other_accuracy"
    """The best head, trained again, has another accuracy than in the sweep."""

    # Fine-tuning
    VALID_LOSS_ROSE = "valid_loss_rose"
    """The valid loss is higher at the end than at the start."""

    UNKNOWN = ""
    """The notice was stored before notices had codes."""


def not_converged(head: str, max_iter: int, *remedies: Remedy, standardize: bool) -> Notice:
    """Return the notice of a solver that reached its limit of iterations.

    Parameters
    ----------
    head
        The name of the head.
    max_iter
        The limit.
    remedies
        What helps; to standardise is added where the head does not.
    standardize
        Whether the head standardises its features.
    """
    scaling = () if standardize else (Remedy("standardize", "set standardize=true"),)
    fact = f"{head} did not converge (max_iter={max_iter})"
    return Notice(Code.NOT_CONVERGED, fact, (*scaling, *remedies))
