"""Metrics of unlearning: what is remembered, what is known, what leaks, and what survives quantization."""

from quail_lightning.evaluation.intervals import bootstrap_mean, bootstrap_ratio
from quail_lightning.evaluation.metrics import METRICS, Metric, MetricLabel, SuiteProgress, label_of, labels
from quail_lightning.evaluation.privleak import (
    PUBLISHED_AUC_RETRAIN,
    MembershipAUC,
    privleak,
    privleak_measure,
    published_auc_retrain,
)
from quail_lightning.evaluation.rouge import RougeLF1, rougeL_f1
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.evaluation.survival import delivered_forgetting, recovery, survival_measures
from quail_lightning.inference.generation import generate
from quail_lightning.inference.likelihood import token_log_likelihoods, window_nlls

__all__ = [
    "METRICS",
    "PUBLISHED_AUC_RETRAIN",
    "EvaluationSuite",
    "MembershipAUC",
    "Metric",
    "MetricLabel",
    "RougeLF1",
    "SuiteProgress",
    "bootstrap_mean",
    "bootstrap_ratio",
    "delivered_forgetting",
    "generate",
    "label_of",
    "labels",
    "privleak",
    "privleak_measure",
    "published_auc_retrain",
    "recovery",
    "rougeL_f1",
    "survival_measures",
    "token_log_likelihoods",
    "window_nlls",
]
