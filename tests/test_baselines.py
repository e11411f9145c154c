"""Words without their order: vectors that know which words stand near which, and linear models over them."""

import numpy as np
import pytest

from lstmjax import baselines, skipgram
from lstmjax.text import Vocabulary

pytest.importorskip("sklearn")

TOPICS = (["cat", "dog", "horse", "sheep"], ["bread", "cheese", "soup", "salad"])


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 2, 400)
    return topics, [" ".join(rng.choice([*TOPICS[topic], "the"], 6)) for topic in topics]


@pytest.fixture(scope="module")
def vectors(corpus):
    tokens = [text.split() for text in corpus[1]]
    vocabulary = Vocabulary.count(tokens)
    return skipgram.train(
        [vocabulary.encode(t) for t in tokens], len(vocabulary), features=16, subsample=1.0
    ), vocabulary


def test_words_of_a_topic_are_near_each_other(vectors):
    table, vocabulary = vectors
    assert table.dtype == np.float32
    assert (table[:2] == 0).all()
    one, two = (table[vocabulary.encode(words)] for words in TOPICS)
    one, two = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, two))
    within = min((one @ one.T).min(), (two @ two.T).min())
    assert within > (one @ two.T).max() + 0.2


def test_tags_are_learnt_from_all_words():
    """In parts, of which the last has what the others have not."""
    first = [(("see", "ann"), ("O", "O"), -1)] * 20
    last = [(("see", "bob"), ("O", "B-X"), -1)] * 20
    whole, parts = (
        baselines.tags(first + last, [(("see", "bob"), -1), (("see", "ann"), -1)], at_once=n) for n in (99, 10)
    )
    assert whole == parts == [("O", "B-X"), ("O", "O")]


def test_the_same_seed_gives_the_same_vectors():
    sequences = [np.array([2, 3, 4, 3])] * 20
    one, two, other = (skipgram.train(sequences, 6, features=4, epochs=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert (one[5] == 0).all()  # a word that does not occur


@pytest.mark.parametrize("model", baselines.MODELS)
@pytest.mark.parametrize("features", baselines.FEATURES)
def test_every_baseline_tells_topics_apart(corpus, vectors, features, model):
    topics, texts = corpus
    table, vocabulary = vectors
    how = dict(features=features, model=model, table=table, vocabulary=vocabulary)
    found = baselines.scores(texts[:300], topics[:300], texts[300:], **how)
    assert found.shape == (100, 2)
    assert (found.argmax(1) == topics[300:]).mean() > 0.95
    both = np.stack([topics == 0, topics == 1, np.array(["cat" in text for text in texts])], 1)
    many = baselines.scores(texts[:300], both[:300], texts[300:], **how)
    assert many.shape == (100, 3)
    assert ((many[:, 1] > (0.5 if model == "logistic" else 0)) == both[300:, 1]).mean() > 0.95


def test_refusals():
    with pytest.raises(ValueError, match="features should be one of"):
        baselines.scores(["a"], np.array([0]), ["a"], features="bag")
    with pytest.raises(ValueError, match='features="vectors" needs table and vocabulary'):
        baselines.scores(["a"], np.array([0]), ["a"], features="vectors")
    with pytest.raises(ValueError, match=r"sequences should hold ids in \[0, 5\), got 7"):
        skipgram.train([np.array([2, 7])], 5)
    with pytest.raises(ValueError, match="words that are known, got none"):
        skipgram.train([np.array([0, 1])], 5)
    with pytest.raises(ValueError, match="window should be"):
        skipgram.train([np.array([2, 3])], 5, window=0)
