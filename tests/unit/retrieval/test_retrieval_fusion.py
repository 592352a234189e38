import pytest

from vivavoce.retrieval import reciprocal_rank_fusion, weighted_sum


def test_reciprocal_rank_fusion_is_the_papers_formula_scaled_to_one():
    fused = reciprocal_rank_fusion([["a", "b"], ["a", "c"]])
    assert list(fused) == ["a", "b", "c"]
    assert fused["a"] == 1.0
    assert fused["b"] == fused["c"] == pytest.approx(0.5 * 61 / 62)


def test_weights_decide_between_rankings():
    assert list(reciprocal_rank_fusion([["a", "b"], ["b", "a"]], [1, 3])) == ["b", "a"]
    assert list(reciprocal_rank_fusion([["a"], ["b"]], [1, 0])) == ["a"]
    assert reciprocal_rank_fusion([]) == {}


def test_weighted_sum_is_a_mean_where_missing_is_zero():
    fused = weighted_sum([{"a": 0.5, "b": 0.25}, {"b": 1.0}], [3, 1])
    assert fused == {"b": pytest.approx(0.4375), "a": pytest.approx(0.375)}
    assert list(fused) == ["b", "a"]


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="eights"):
        reciprocal_rank_fusion([["a"], ["b"]], weights)
    with pytest.raises(ValueError, match="eights"):
        weighted_sum([{"a": 1.0}, {}], weights)
