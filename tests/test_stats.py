"""ActivationStats: merges against the statistics of all raw tokens, and the checks of its files."""

from __future__ import annotations

import json
import resource
import struct
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.errors import InputError
from affectron.stats import FIELDS, SAME_TO_MERGE, ActivationStats, SiteStats
from tests.support.errors import message
from tests.support.raw_activations import PROVENANCE, raw, site_stats

ARRAYS = [name for name in FIELDS if name != "count"]


def assert_agree(got: SiteStats, expected: SiteStats, scale: float = 1.0, relative: float = 1e-12) -> None:
    """Counts and extremes equal; mean within ``relative`` of ``scale``, m2 of n scale²."""
    assert got.count == expected.count
    for name in ("active", "nonfinite", "min", "max"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        assert getattr(got, name).dtype == FIELDS[name]
    np.testing.assert_allclose(got.mean, expected.mean, rtol=0, atol=relative * scale)
    np.testing.assert_allclose(got.m2, expected.m2, rtol=0, atol=relative * scale**2 * max(1, got.count))


def assert_identical(a: ActivationStats, b: ActivationStats) -> None:
    assert (a.tasks, a.labels, a.segments, a.sites) == (b.tasks, b.labels, b.segments, b.sites)
    assert a.provenance == b.provenance
    assert list(a.provenance) == list(b.provenance)
    for site in a.sites:
        for name in FIELDS:
            left, right = getattr(a, name)[site], getattr(b, name)[site]
            assert left.dtype == right.dtype
            assert left.shape == right.shape
            assert left.tobytes() == right.tobytes()


tokens = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=60, deadline=None)
@given(rng=tokens, size=st.integers(0, 40), width=st.sampled_from([1, 3, 17]), cuts=st.data())
def test_site_stats_merge_in_any_grouping_equals_all_tokens_at_once(rng, size, width, cuts):
    offset = 10.0 ** rng.integers(-2, 4)
    values = (rng.standard_normal((size, width)) + offset * rng.standard_normal(width)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    at = sorted(cuts.draw(st.lists(st.integers(0, size), max_size=5)))
    parts = [site_stats(part) for part in np.split(values, at)]
    order = cuts.draw(st.permutations(range(len(parts))))
    while len(parts) > 1:  # a random binary tree over a random order
        i = cuts.draw(st.integers(0, len(parts) - 2))
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    scale = 1 + np.abs(values[np.isfinite(values)]).max(initial=0)
    assert_agree(parts[0], site_stats(values), scale)

    shuffled = SiteStats.empty(width)
    pieces = [site_stats(part) for part in np.split(values, at)]
    for i in order:
        shuffled = shuffled.merge(pieces[i])
    assert_agree(shuffled, parts[0], scale)


def test_merge_keeps_a_small_spread_around_a_large_mean():
    rng = np.random.default_rng(1)
    values = (1e4 + rng.standard_normal((5000, 31))).astype(np.float32)
    merged = SiteStats.empty(31)
    for part in np.array_split(values, 77):
        merged = merged.merge(site_stats(part))
    wide = values.astype(np.longdouble)
    expected = ((wide - wide.mean(axis=0)) ** 2).mean(axis=0).astype(np.float64)
    np.testing.assert_allclose(merged.var, expected, rtol=1e-11)
    np.testing.assert_allclose(merged.mean, wide.mean(axis=0).astype(np.float64), rtol=1e-15)


def test_merging_nothing_changes_no_bit_and_equal_values_have_no_variance():
    rng = np.random.default_rng(2)
    some = site_stats(rng.standard_normal((13, 40)).astype(np.float32) * 1e3)
    for merged in (some.merge(SiteStats.empty(40)), SiteStats.empty(40).merge(some)):
        assert merged.count == 13
        for name in ARRAYS:
            assert getattr(merged, name).tobytes() == getattr(some, name).tobytes()
    constant = np.full((1, 40), 0.1, np.float32) * rng.uniform(0.5, 2, 40).astype(np.float32)
    merged = site_stats(np.repeat(constant, 3, axis=0))
    for size in (7, 11, 1):
        merged = merged.merge(site_stats(np.repeat(constant, size, axis=0)))
    assert (merged.m2 == 0).all()
    np.testing.assert_array_equal(merged.mean, constant[0].astype(np.float64))


def test_counts_are_exact_beyond_32_and_53_bits():
    def big(count: int, active: int) -> SiteStats:
        ones = np.ones(1)
        return SiteStats(
            count, np.array([active]), np.array([0]), ones, ones, ones.astype(np.float32), ones.astype(np.float32)
        )

    merged = big(2**53, 2**53).merge(big(2**31 + 1, 2**31 + 1)).merge(big(1, 1))
    assert merged.count == 2**53 + 2**31 + 2
    assert merged.active[0] == 2**53 + 2**31 + 2


def test_unobserved_neurons_read_as_nothing():
    values = np.array([[np.nan, 1.0], [np.inf, 3.0]], dtype=np.float32)
    stats = site_stats(values, np.array([[False, True], [True, True]]))
    empty = SiteStats.empty(2)
    merged = stats.merge(empty)
    np.testing.assert_array_equal(merged.observed, [0, 2])
    np.testing.assert_array_equal(merged.var, [np.nan, 1.0])
    np.testing.assert_array_equal(merged.rate, [0.5, 1.0])
    np.testing.assert_array_equal(merged.mean, [np.nan, 2.0])
    np.testing.assert_array_equal(merged.min, [np.inf, 1.0])
    assert np.isnan(empty.rate).all()
    assert np.isnan(empty.var).all()
    with pytest.raises(ValueError, match="2 neurons with 3"):
        empty.merge(SiteStats.empty(3))


@pytest.mark.parametrize("bad", [False, True])
def test_label_rest_task_and_total_are_the_statistics_of_their_tokens(bad):
    data = raw(3, bad=bad)
    stats = data.stats()
    for label in stats.labels:
        for got, rows in ((stats.label(label), data.target(label)), (stats.rest(label), data.rest(label))):
            assert tuple(got) == stats.sites
            for site, pooled in got.items():
                assert_agree(pooled, site_stats(data.values[site][rows], data.active[site][rows]), 10)
    for task, labels in data.tasks.items():
        rows = data.having(labels)
        for site, pooled in stats.task_total(task).items():
            assert_agree(pooled, site_stats(data.values[site][rows], data.active[site][rows]), 10)
    for site, pooled in stats.total().items():
        assert_agree(pooled, site_stats(data.values[site], data.active[site]), 10)


def test_label_order_and_segments_are_canonical():
    data = raw(4)
    arrays = {site: {name: getattr(data.stats(), name)[site] for name in FIELDS} for site in data.stats().sites}
    segments = [tuple(reversed(segment)) for segment in data.stats().segments]
    tasks = {task: tuple(reversed(data.tasks[task])) for task in reversed(list(data.tasks))}
    stats = ActivationStats(tasks, segments, arrays, PROVENANCE)
    assert stats.labels == ("anger", "fear", "joy", "metaphor", "sarcasm")
    assert list(stats.tasks) == ["emotion", "rhetoric"]
    assert_identical(stats, data.stats())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.integers(2, 4), order=st.randoms(use_true_random=False))
def test_merging_parts_of_a_corpus_in_any_order_gives_the_whole(seed, parts, order):
    data = raw(seed, tokens=60, bad=seed % 2 == 0)
    which = np.random.default_rng(seed).integers(0, parts, len(data.labels))
    which[: 2 * parts] = np.arange(2 * parts) % parts
    pieces = [data.stats(which == part, corpus=[f"c{part}"], split=f"s{part}") for part in range(parts)]
    results = []
    for _ in range(2):
        order.shuffle(pieces)
        merged = pieces[0]
        for piece in pieces[1:]:
            merged = merged.merge(piece)
        results.append(merged)
    whole = data.stats()
    for merged in results:
        assert merged.provenance["corpus"] == [f"c{part}" for part in range(parts)]
        assert merged.provenance["split"] == [f"s{part}" for part in range(parts)]
        assert merged.provenance["weights"] == "w"
        assert set(merged.segments) == set(whole.segments)
        assert merged.segments == results[0].segments
        for label in whole.labels:
            for site in whole.sites:
                assert_agree(merged.label(label)[site], whole.label(label)[site], 10)


def test_merge_unites_labels_and_leaves_what_one_side_has_untouched():
    data = raw(5, both=False)
    emotion = data.stats(data.having(data.tasks["emotion"]))
    rhetoric = data.stats(data.having(data.tasks["rhetoric"]))
    merged = emotion.merge(rhetoric)
    assert merged.labels == data.stats().labels
    for row, segment in enumerate(merged.segments):
        side = emotion if segment in emotion.segments else rhetoric
        at = side.segments.index(segment)
        for site in merged.sites:
            for name in FIELDS:
                assert np.array_equal(
                    getattr(merged, name)[site][row], getattr(side, name)[site][at], equal_nan=name != "count"
                )


def test_merged_sources_are_added_and_one_side_that_does_not_tell_silences_both():
    sides = [
        raw(5).stats(sources=sources)
        for sources in ({"anger": {"web": 2, "books": 1}}, {"anger": {"web": 1}, "fear": {"web": 4}}, {})
    ]
    expected = {"anger": {"books": 1, "web": 3}, "fear": {"web": 4}}
    assert sides[0].merge(sides[1]).provenance["sources"] == expected
    assert sides[1].merge(sides[0]).provenance["sources"] == expected
    assert sides[0].merge(sides[2]).provenance["sources"] == {}


@pytest.mark.parametrize("key", SAME_TO_MERGE)
def test_merge_refuses_statistics_taken_in_another_way(key):
    data = raw(6)
    with pytest.raises(InputError, match=rf"{key} is .*'here'.*'there'"):
        data.stats(**{key: "here"}).merge(data.stats(**{key: "there"}))


def test_merge_refuses_another_shape_or_another_meaning_of_a_label():
    data = raw(7)
    with pytest.raises(InputError, match=r"number of sites is 3 in one and 2 in the other"):
        data.stats().merge(raw(7, widths=(7, 5)).stats())
    with pytest.raises(InputError, match=r"number of neurons of model.layers.1.mlp is 5 in one and 6"):
        data.stats().merge(raw(7, widths=(7, 6, 3)).stats())
    renamed = raw(7)
    renamed.values = {site.replace("model", "other"): x for site, x in renamed.values.items()}
    renamed.active = {site.replace("model", "other"): x for site, x in renamed.active.items()}
    with pytest.raises(InputError, match=r"site is 'model.layers.0.mlp' in one and 'other.layers.0.mlp'"):
        data.stats().merge(renamed.stats())
    moved = raw(7, tasks={"mood": ("anger", "fear", "joy"), "rhetoric": ("metaphor", "sarcasm")})
    with pytest.raises(InputError, match=r"task of label 'anger' is 'emotion' in one and 'mood'"):
        data.stats().merge(moved.stats())


def test_unknown_names_are_refused_with_the_known_ones():
    stats = raw(8).stats()
    for call in (stats.label, stats.rest, stats.rows):
        with pytest.raises(InputError, match=r"'hope'.*anger, fear, joy, metaphor, sarcasm"):
            call("hope")
    with pytest.raises(InputError, match=r"'mood'.*emotion, rhetoric"):
        stats.task_total("mood")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "mean is missing"),
        ({"mean": np.zeros((2, 3))}, r"mean has shape \(2, 3\), expected \(2, 4\)"),
        ({"count": np.array([1, 2, 3])}, r"count has shape \(3,\), expected \(2,\)"),
        ({"active": np.zeros((3, 4), np.int64)}, r"active has shape \(3, 4\), expected \(2 segments"),
        ({"active": np.zeros((2, 4))}, "active is float64, expected int64"),
        ({"mean": np.zeros((2, 4), np.int64)}, "mean is int64, expected float64"),
        ({"active": np.full((2, 4), 9)}, "active has values outside 0 to the token count"),
        ({"nonfinite": np.full((2, 4), -1)}, "nonfinite has values outside 0 to the token count"),
        ({"mean": np.full((2, 4), np.nan)}, "mean is not finite"),
        ({"max": np.full((2, 4), 1e300)}, "max is not finite"),
        ({"m2": np.full((2, 4), -1.0)}, "m2 is negative"),
        ({"min": np.full((2, 4), 2.0)}, "min exceeds max"),
    ],
)
def test_arrays_that_cannot_be_statistics_are_refused(change, message):
    arrays = {name: np.ones((2, 4), kind) for name, kind in FIELDS.items()}
    arrays["count"] = np.array([3, 4])
    ActivationStats({"t": ("a", "b")}, [("a",), ("b",)], {"s": arrays})
    arrays = {name: array for name, array in (arrays | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        ActivationStats({"t": ("a", "b")}, [("a",), ("b",)], {"s": arrays})


@pytest.mark.parametrize(
    ("tasks", "segments", "message"),
    [
        ({"t": ("a",), "u": ("a",)}, [("a",)], "label 'a' is in both 't' and 'u'"),
        ({"t": ("a", "b")}, [("a",), ("c",)], "label 'c' is in no task"),
        ({"t": ("a", "b")}, [("a",), ()], "one or more distinct labels"),
        ({"t": ("a", "b")}, [("a", "b"), ("b", "a")], "same segment twice"),
        ({"t": ("a", "b")}, [], "no segment"),
    ],
)
def test_labels_and_segments_that_do_not_fit_are_refused(tasks, segments, message):
    with pytest.raises(InputError, match=message):
        ActivationStats(tasks, segments, {})


# --- files -----------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_file_gives_back_every_bit(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("stats") / "s.safetensors"
    stats = raw(seed, tokens=40, bad=seed % 2 == 0).stats(template='{bos}"{text}"\nÜ 😀', extra={"x": [1, None]})
    stats.save(path)
    assert_identical(ActivationStats.load(path), stats)
    first = path.read_bytes()
    ActivationStats.load(path).save(path)
    assert path.read_bytes() == first


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "s.safetensors"
    stats = raw(9, tokens=40, widths=(3, 2)).stats()
    stats.save(path)
    return stats, path.read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_gives_a_wrong_number(tmp_path_factory, saved, data):
    """Any changed, removed, inserted or missing bytes are refused; only a change in white space may load the same."""
    stats, content = saved
    path = tmp_path_factory.mktemp("damaged") / "s.safetensors"
    at = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["truncate", "alter", "cut", "extend"]))
    if damage == "truncate":
        damaged = content[:at]
    elif damage == "alter":
        damaged = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    elif damage == "cut":
        damaged = content[:at] + content[at + data.draw(st.integers(1, 16)) :]
    else:
        damaged = content[:at] + bytes(data.draw(st.integers(1, 16))) + content[at:]
    path.write_bytes(damaged)
    message = ""
    try:
        loaded = ActivationStats.load(path)
    except InputError as error:
        message = str(error)
    if message:
        assert str(path) in message
        assert "\n" not in message
    else:
        assert damage == "alter"
        assert_identical(loaded, stats)


def parts(content: bytes) -> tuple[dict, bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: dict, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def test_every_tensor_and_all_metadata_are_covered_by_the_digest(tmp_path, saved):
    _, content = saved
    path = tmp_path / "s.safetensors"
    header, body = parts(content)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, _ = entry["data_offsets"]
        path.write_bytes(joined(header, body[:begin] + bytes([body[begin] ^ 1]) + body[begin + 1 :]))
        with pytest.raises(InputError, match="does not match its digest"):
            ActivationStats.load(path)
    for old, new in (("anger", "angry"), ('"w"', '"v"'), ("layers.0", "layers.9"), ("float32", "float16")):
        changed = json.loads(json.dumps(header))
        text = changed["__metadata__"]["affectron"]
        assert old in text
        changed["__metadata__"]["affectron"] = text.replace(old, new)
        path.write_bytes(joined(changed, body))
        with pytest.raises(InputError):
            ActivationStats.load(path)
    swapped = json.loads(json.dumps(header))
    a, b = "model.layers.0.mlp/mean", "model.layers.0.mlp/m2"
    swapped[a], swapped[b] = swapped[b], swapped[a]
    path.write_bytes(joined(swapped, body))
    with pytest.raises(InputError, match="does not match its digest"):
        ActivationStats.load(path)


def test_foreign_files_and_other_versions_are_named(tmp_path, saved):
    _, content = saved
    path = tmp_path / "s.safetensors"
    header, body = parts(content)
    other = json.loads(json.dumps(header))
    text = other["__metadata__"]["affectron"]
    other["__metadata__"]["affectron"] = text.replace('"version": 1', '"version": 2')
    path.write_bytes(joined(other, body))
    with pytest.raises(InputError, match=r"version is 2, expected 1"):
        ActivationStats.load(path)
    path.write_bytes(safetensors.numpy.save({"weight": np.zeros(3, np.float32)}))
    with pytest.raises(InputError, match=r"format is None, expected 'affectron.stats'"):
        ActivationStats.load(path)
    path.write_text('{"format": "affectron.neurons"}')
    with pytest.raises(InputError, match="not a whole safetensors file"):
        ActivationStats.load(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        ActivationStats.load(path)
    with pytest.raises(InputError, match="no such file"):
        ActivationStats.load(tmp_path / "absent")
    with pytest.raises(InputError, match="not a file"):
        ActivationStats.load(tmp_path)


@contextmanager
def limited(kind: int, bytes_: int):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_a_header_that_promises_terabytes_is_refused_without_allocating_them(tmp_path, saved):
    """The address space is limited to 1 GiB more, so that a huge allocation would raise a MemoryError."""
    _, content = saved
    header, body = parts(content)
    path = tmp_path / "s.safetensors"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    files = [struct.pack("<Q", 2**62) + content[8:], struct.pack("<Q", 99_000_000) + content[8:]]
    for name in ("model.layers.0.mlp/mean", "model.layers.1.mlp/count"):
        promised = json.loads(json.dumps(header))
        promised[name]["shape"][0] = 2**40
        files.append(joined(promised, body))
        begin = promised[name]["data_offsets"][0]
        promised[name]["data_offsets"] = [begin, begin + 2**43 * promised[name]["shape"][-1]]
        files.append(joined(promised, body))
    with limited(resource.RLIMIT_AS, used + 2**30):
        for file in files:
            path.write_bytes(file)
            with pytest.raises(InputError):
                ActivationStats.load(path)


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ({"sites": [f"s{i}" for i in range(1_500_000)]}, "which are too few for it"),
        ({"tasks": {"emotion": [f"l{i}" for i in range(1_500_000)]}}, "which are too few for it"),
        ({"segments": [[f"l{i}"] for i in range(1_500_000)]}, "which are too few for it"),
        ({"provenance": {"corpus": ["c"] * 1_500_000}}, "which are too few for it"),
        ({"sites": [f"s{i}" for i in range(40_000)]}, "do not describe the tensors"),
        ({"segments": [[f"l{i}"] for i in range(40_000)]}, "do not describe the tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{next(iter(value))}",
)
def test_a_header_that_claims_more_than_the_tensors_hold_is_refused_at_once(tmp_path, saved, claim, expected):
    _, content = saved
    header, body = parts(content)
    described = json.loads(header["__metadata__"]["affectron"])
    described["content"] |= claim
    header["__metadata__"]["affectron"] = json.dumps(described)
    path = tmp_path / "s.safetensors"
    path.write_bytes(joined(header, body))
    start = time.process_time()
    assert expected in message(lambda: ActivationStats.load(path))
    assert time.process_time() - start < 1


def test_many_empty_tensors_are_refused_at_once(tmp_path, saved):
    _, content = saved
    header, body = parts(content)
    header |= {f"s{i}/mean": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]} for i in range(300_000)}
    path = tmp_path / "s.safetensors"
    path.write_bytes(joined(header, body))
    start = time.process_time()
    assert "which are too few for it" in message(lambda: ActivationStats.load(path))
    assert time.process_time() - start < 1


def test_a_tensor_too_many_or_too_few_is_named(tmp_path, saved):
    _, content = saved
    path = tmp_path / "s.safetensors"
    header, body = parts(content)
    more = {**header, "extra": {"dtype": "U8", "shape": [1], "data_offsets": [len(body), len(body) + 1]}}
    path.write_bytes(joined(more, body + b"x"))
    assert message(lambda: ActivationStats.load(path)) == f"{path}: tensor 'extra' is unexpected"
    described = json.loads(header["__metadata__"]["affectron"])
    described["content"]["sites"][0] = "other"
    header["__metadata__"]["affectron"] = json.dumps(described)
    path.write_bytes(joined(header, body))
    assert message(lambda: ActivationStats.load(path)) == f"{path}: tensor 'other/count' is missing"


def texts(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def test_screened_texts_are_kept_united_and_covered_by_the_digest(tmp_path):
    part = raw(3).stats()
    arrays = {site: {name: getattr(part, name)[site] for name in FIELDS} for site in part.sites}

    def having(screened: np.ndarray | None) -> ActivationStats:
        return ActivationStats(part.tasks, part.segments, arrays, part.provenance, screened)

    first, second = having(texts(3, 5, 2**64 - 1)), having(texts(0, 5))
    for merged in (first.merge(second), second.merge(first), ActivationStats.pooled([first, second])):
        assert merged.screened.tolist() == [0, 3, 5, 2**64 - 1]
    assert first.merge(having(texts())).screened.tolist() == [3, 5, 2**64 - 1]
    for merged in (first.merge(part), part.merge(first), ActivationStats.pooled([part, first])):
        assert merged.screened is None
    path = tmp_path / "s.safetensors"
    first.save(path)
    assert ActivationStats.load(path).screened.tolist() == first.screened.tolist()
    header, body = parts(path.read_bytes())
    begin, _ = header["screened"]["data_offsets"]
    path.write_bytes(joined(header, body[:begin] + bytes([body[begin] ^ 1]) + body[begin + 1 :]))
    assert "does not match its digest" in message(lambda: ActivationStats.load(path))
    part.save(path)
    assert ActivationStats.load(path).screened is None


@pytest.mark.parametrize("screened", [[1, 2], [-1.0], texts(2, 1), texts(1, 1), texts(1).reshape(1, 1)])
def test_screened_texts_must_be_hashes_in_order(screened):
    part = raw(3).stats()
    arrays = {site: {name: getattr(part, name)[site] for name in FIELDS} for site in part.sites}
    line = message(lambda: ActivationStats(part.tasks, part.segments, arrays, {}, screened))
    assert line.startswith("screened is ")


def test_a_tensor_without_elements_cannot_promise_neurons(tmp_path, saved):
    """Shape [0, 2^40] takes no bytes, so the size of the file cannot contradict it."""
    _, content = saved
    header, body = parts(content)
    entry = header["model.layers.0.mlp/mean"]
    begin, end = entry["data_offsets"]
    entry["shape"], entry["data_offsets"] = [0, 2**40], [begin, begin]
    for other in header.values():
        if other is not entry and "data_offsets" in other and other["data_offsets"][0] >= end:
            other["data_offsets"] = [offset - (end - begin) for offset in other["data_offsets"]]
    path = tmp_path / "s.safetensors"
    path.write_bytes(joined(header, body[:begin] + body[end:]))
    with pytest.raises(InputError):
        ActivationStats.load(path)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """A limit on the file size makes the kernel refuse the write half-way, as a full disk does."""
    path = tmp_path / "s.safetensors"
    old = raw(10, tokens=40).stats()
    old.save(path)
    before = path.read_bytes()
    larger = raw(11, tokens=40, widths=(4000,)).stats()
    with limited(resource.RLIMIT_FSIZE, 64 * 1024), pytest.raises(InputError, match="cannot write"):
        larger.save(path)
    with limited(resource.RLIMIT_FSIZE, 64 * 1024), pytest.raises(InputError, match="cannot write"):
        larger.save(tmp_path / "new.safetensors")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.safetensors"]
    with pytest.raises(InputError, match="cannot write"):
        old.save(tmp_path / "absent" / "s.safetensors")


def test_provenance_that_is_not_json_is_refused():
    with pytest.raises(InputError, match="provenance cannot be written as JSON"):
        raw(12, tokens=20).stats(extra=object())
    with pytest.raises(InputError, match="provenance cannot be written as JSON"):
        raw(12, tokens=20).stats(extra=float("nan"))
