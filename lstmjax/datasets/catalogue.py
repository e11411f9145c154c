"""The data sets that are known: how each is read, what it may be used for, and whom to cite."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lstmjax.datasets import records


class Split(NamedTuple):
    """How a part of a set is read: from the files of these paths, in this order."""

    read: Callable[..., Any]
    paths: tuple[str, ...]


class Dataset(NamedTuple):
    """A set of records."""

    name: str
    folder: str
    task: str
    languages: str
    licence: str
    citation: str
    splits: dict[str, Split]
    noncommercial: bool = False
    note: str = ""


_PARTIAL = "The test split here is a part of the official one; the rest is kept back."
_TATOEBA = "CC BY 2.0 France (Tatoeba, tatoeba.org)"


def _splits(read, **paths):
    """Splits that are read alike, each from one path or several with a comma between."""
    return {split: Split(read, tuple(path.split(","))) for split, path in paths.items()}


def _chosen(read_of, path, **parts):
    """Splits that one file holds; `read_of` makes the reader of each."""
    return {split: Split(read_of(*part), (path,)) for split, part in parts.items()}


_ALL = (
    Dataset(
        "snips",
        "textcls_snips",
        "text classification: 7 intents of voice commands; slots as BIO tags",
        "English",
        "CC0 1.0",
        "Coucke et al. 2018, Snips Voice Platform, arXiv:1805.10190; the split of Goo et al. 2018, Slot-Gated Modeling "
        "for Joint Slot Filling and Intent Prediction, NAACL",
        _splits(
            records.snips,
            train="train/seq.in,train/seq.out,train/label",
            dev="valid/seq.in,valid/seq.out,valid/label",
            test="test/seq.in,test/seq.out,test/label",
        ),
    ),
    Dataset(
        "clinc150",
        "textcls_clinc150",
        "text classification: 150 intents, and utterances that are none of them (label oos)",
        "English",
        "CC BY 3.0",
        "Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP",
        _chosen(
            records.clinc150,
            "data_full.json",
            train=("train",),
            dev=("val",),
            test=("test",),
            oos_train=("oos_train",),
            oos_dev=("oos_val",),
            oos_test=("oos_test",),
        ),
    ),
    Dataset(
        "goemotions",
        "sentiment_goemotions",
        "emotions of comments: 28 labels, one or more each",
        "English",
        "CC BY 4.0",
        "Demszky et al. 2020, GoEmotions: A Dataset of Fine-Grained Emotions, ACL",
        _splits(
            records.goemotions,
            train="train.tsv,labels.tsv",
            dev="dev.tsv,labels.tsv",
            test="test_public.tsv,labels.tsv",
        ),
        note=_PARTIAL,
    ),
    Dataset(
        "sick",
        "semmatch_sick",
        "semantic matching: relatedness from 1 to 5, and entailment",
        "English",
        "CC BY-NC-SA 3.0",
        "Marelli et al. 2014, A SICK cure for the evaluation of compositional distributional semantic models, LREC",
        _splits(records.sick, train="SICK_train.txt", dev="SICK_trial.txt", test="SICK_test_public.txt"),
        noncommercial=True,
        note=_PARTIAL,
    ),
    Dataset(
        "snli20k",
        "semmatch_snli20k",
        "semantic matching: entailment; 20,000 pairs of SNLI for training, its whole test split",
        "English",
        "CC BY-SA 4.0",
        "Bowman et al. 2015, A large annotated corpus for learning natural language inference, EMNLP",
        _splits(records.snli_numbered, train="train.tsv", dev="dev.tsv")
        | _splits(records.snli_named, test="test_official.tsv"),
    ),
    Dataset(
        "ocnli",
        "semmatch_ocnli_zh",
        "semantic matching: entailment",
        "Chinese",
        "CC BY-NC 2.0",
        "Hu et al. 2020, OCNLI: Original Chinese Natural Language Inference, Findings of EMNLP",
        _splits(records.ocnli, train="train.10k.json", dev="dev.json"),
        noncommercial=True,
        note="No labelled test split is public: figures are of dev, and what is chosen is chosen on a part of train.",
    ),
    Dataset(
        "cmn_eng",
        "mt_cmn_eng",
        "translation of everyday sentences",
        "English, Chinese (Simplified)",
        _TATOEBA,
        "Tatoeba, by way of manythings.org/anki; who wrote each sentence stands on its line",
        _splits(records.translations, train="train.tsv", dev="dev.tsv", test="test_public.tsv"),
        note=_PARTIAL,
    ),
    *(
        Dataset(
            f"ja_en_{size}",
            f"mt_ja_en_{size}",
            f"translation, {size[:-1]},000 sentences for training, tokenised",
            "Japanese, English",
            _TATOEBA,
            f"Tanaka 2001, Compilation of a Multilingual Parallel Corpus, PACLING; the sample of {sample}",
            _splits(records.parallel, train="train.ja,train.en", dev="dev.ja,dev.en", test="test.ja,test.en"),
            note="The training part may hold sentences of the other sample's test: use one of the two.",
        )
        for size, sample in (("10k", "neubig/nmt-tips"), ("50k", "odashi/small_parallel_enja"))
    ),
    Dataset(
        "ewt_propbank",
        "srl_ewt_propbank",
        "semantic role labelling of web text, PropBank rolesets",
        "English",
        "CC BY-SA 4.0",
        "Silveira et al. 2014, A Gold Standard Dependency Corpus for English, LREC; Palmer et al. 2005, The "
        "Proposition Bank, Computational Linguistics 31",
        _splits(records.roles, train="train.tsv", dev="dev.tsv", test="test.tsv"),
    ),
    Dataset(
        "zh_up",
        "srl_zh_up",
        "semantic role labelling; roles were projected from English by a program",
        "Chinese (Traditional)",
        "CC BY-SA 4.0; the words of the training part CC BY-NC-SA 4.0",
        "Akbik et al. 2015, Generating High Quality Proposition Banks for Multilingual Semantic Role Labeling, ACL",
        _splits(records.roles, train="train.tsv", dev="dev.tsv", test="test.tsv"),
        noncommercial=True,
    ),
    Dataset(
        "wikitext2",
        "lm_wikitext2",
        "word language model: encyclopedic text, tokenised",
        "English",
        "CC BY-SA",
        "Merity et al. 2017, Pointer Sentinel Mixture Models, ICLR",
        _splits(records.lines, train="train.txt", dev="valid.txt", test="test.txt"),
    ),
    Dataset(
        "warpeace",
        "lm_warpeace",
        "character language model: War and Peace, cut 80 / 10 / 10 in order",
        "English",
        "public domain",
        "Tolstoy, War and Peace, translated by Maude; the file of Karpathy et al. 2015, Visualizing and Understanding "
        "Recurrent Networks, arXiv:1506.02078",
        _chosen(records.part_of_text, "warpeace_input.txt", train=(0.0, 0.8), dev=(0.8, 0.9), test=(0.9, 1.0)),
        note="Not the parts of the paper: `warpeace_2015` has those.",
    ),
    Dataset(
        "warpeace_2015",
        "lm_warpeace",
        "character language model: War and Peace, of each of 100 columns 80 / 10 / 10",
        "English",
        "public domain",
        "Tolstoy, War and Peace, translated by Maude; the file and the parts of Karpathy et al. 2015, Visualizing and "
        "Understanding Recurrent Networks, arXiv:1506.02078",
        _chosen(records.part_of_columns, "warpeace_input.txt", train=(0.0, 0.8), dev=(0.8, 0.9), test=(0.9, 1.0)),
        note="Lines end in two characters, as in the file of the paper: the second costs nothing to tell.",
    ),
    Dataset(
        "songci",
        "lm_songci_zh",
        "character language model: lyrics of the Song dynasty",
        "Chinese (Simplified)",
        "MIT; the poems are in the public domain",
        "chinese-poetry/chinese-poetry, a collection on GitHub",
        _splits(records.poems, train="train.tsv", dev="dev.tsv", test="test.tsv"),
    ),
    Dataset(
        "mnist",
        "seq_mnist",
        "digits, to be read pixel by pixel: 784 steps",
        "",
        "CC BY-SA 3.0",
        "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, Proceedings of the IEEE 86",
        _splits(
            records.images,
            train="train-images-idx3-ubyte,train-labels-idx1-ubyte",
            test="t10k-images-idx3-ubyte,t10k-labels-idx1-ubyte",
        ),
    ),
    Dataset(
        "jsb_chorales",
        "seq_jsb_chorales",
        "polyphonic music: chorales of Bach, frame by frame",
        "",
        "MIT; the music is in the public domain",
        "Boulanger-Lewandowski et al. 2012, Modeling Temporal Dependencies in High-Dimensional Sequences, ICML",
        _chosen(records.chorales, "jsb_chorales.json", train=("train",), dev=("valid",), test=("test",)),
    ),
)
CATALOGUE = {one.name: one for one in _ALL}
