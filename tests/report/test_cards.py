"""Neuron cards: all that the files of a run say of a neuron is on its card, shaded, escaped, linked and there once."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from rich.console import Console

import affectron
from affectron._internal.artifacts import KINDS
from affectron.errors import InputError
from affectron.experiments.results import Cards, Excerpt, NeuronCard, VocabularyToken
from affectron.neurons import NeuronList, NeuronSet
from affectron.report import build_report, card_parts, cards
from affectron.report.cards import CARD_STYLE, CardView, card_views
from affectron.report.pieces import Pieces
from affectron.scores import SCORES, score, scores_for
from affectron.stats import FIELDS, ActivationStats
from tests.report.reading import Page, written, written_pair
from tests.support.results import PROVENANCE, SITES, make_cards, make_neurons, make_run, make_stats

TASKS = {"tone": ["calm", "loud", "soft"], "mood": ["glum", "glad"]}
HOSTILE = ("<script>alert(1)</script>", "«\u202e\"'", "מילה", "👩‍👩‍👧", "a\nb\tc", "]]>", "&amp;", "\x1b[31m", "[bold]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, TASKS, *KINDS)
    return folder


def parsed(view: CardView) -> Element:
    """The card; its HTML is well-formed XML too."""
    return ElementTree.fromstring(view.html())


def tokens_of(paragraph: Element) -> Iterator[tuple[str, int, bool]]:
    """Text, shade and whether it is the extreme one, of each part of a text."""
    if paragraph.text:
        yield paragraph.text, 0, False
    for part in paragraph:
        sign, step = part.attrib["class"][0], int(part.attrib["class"][1:])
        yield part.text or "", step if sign == "p" else -step, part.tag == "b"
        if part.tail:
            yield part.tail, 0, False


def one_card(excerpt: Excerpt, labels: tuple[str, ...] = ("calm",), **changes: object) -> Cards:
    """Cards of one neuron, whose texts are ``excerpt``."""
    (first, *_), options = make_cards(TASKS).neurons, make_cards(TASKS).options
    card = replace(first, site=SITES[1], index=7, labels=labels, top=(excerpt,), bottom=(), **changes)  # type: ignore[arg-type]
    return Cards(PROVENANCE, options, (card,))


def of_one_neuron(made: Cards, tasks: dict[str, list[str]] = TASKS) -> CardView:
    """The view of the only neuron of a run."""
    card: NeuronCard = made.neurons[0]
    task_of = {label: task for task, labels in tasks.items() for label in labels}
    lists = [NeuronList(label, task_of[label], [(card.site, card.index, 0.5)]) for label in card.labels]
    neurons = NeuronSet(lists, dict.fromkeys(SITES, 512), PROVENANCE)
    (view,) = card_views(Pieces(neurons=neurons, cards=made))[card.labels[0]]
    return view


def test_every_token_is_on_the_card_and_its_shade_grows_with_the_activation() -> None:
    rng = np.random.default_rng(0)
    tokens = tuple(f" w{n}" for n in range(41))
    activations = rng.normal(size=41)
    activations[[3, 20]] = 0
    extreme = int(activations.argmax())
    given = tuple(None if n == 5 and n != extreme else float(value) for n, value in enumerate(activations))
    view = of_one_neuron(one_card(Excerpt(("calm",), tokens, given, extreme, (True, True))))
    (text,) = parsed(view).findall(".//div[@class='texts']//p")
    parts = list(tokens_of(text))
    assert "".join(part for part, _, _ in parts) == f"… {''.join(tokens)} …"
    assert [part for part, _, is_extreme in parts if is_extreme] == [tokens[extreme]]
    shades = {part: shade for part, shade, _ in parts}
    of_token = [shades.get(token, 0) for token in tokens]
    known = [(value, of_token[n]) for n, value in enumerate(given) if value is not None]
    assert of_token[5] == 0
    assert [shade for _, shade in sorted(known)] == sorted(shade for _, shade in known)
    assert all(value * shade >= 0 for value, shade in known)
    assert max(abs(shade) for _, shade in known) == 10
    assert len({shade for _, shade in known}) > 5
    for step in range(1, 11):
        assert all(f".card .{sign}{step} {{" in CARD_STYLE for sign in ("p", "n"))


@pytest.mark.parametrize(
    ("tokens", "extreme", "expected"),
    [
        ((" 😂", "", "", " dev"), 2, [(" 😂", 10, 4.0, True), (" dev", 2, 1.0, False)]),
        ((" 😂", "", "", " dev"), 3, [(" 😂", 10, 4.0, False), (" dev", 2, 1.0, True)]),
        (("", "", "a", ""), 2, [("", -7, -3.0, False), ("a", 10, 4.0, True)]),
        (("", "", "", "a"), 2, [("\ufffd", 10, 4.0, True), ("a", 2, 1.0, False)]),
    ],
    ids=["in its last token", "elsewhere", "begun before the excerpt", "begun before the excerpt, and the extreme"],
)
def test_the_tokens_of_one_character_are_one_piece(
    tokens: tuple[str, ...], extreme: int, expected: list[tuple[object, ...]]
) -> None:
    excerpt = Excerpt(("calm",), tokens, (-3.0, None, 4.0, 1.0), extreme, (True, True))
    assert [tuple(piece) for piece in card_parts.pieces(excerpt, 4.0)] == expected


def test_control_characters_have_marks() -> None:
    assert card_parts.visible(" a\n\t\x12\x7f") == "␣a↵⇥\\x12\\x7f"


def test_strings_are_text_and_nothing_else(tmp_path: Path) -> None:
    tasks = {"tone": list(HOSTILE)}
    excerpt = Excerpt(HOSTILE[:2], HOSTILE, (0.5,) * len(HOSTILE), 1, (False, False))
    vocabulary = tuple(VocabularyToken(text, 0.1) for text in HOSTILE)
    made = one_card(excerpt, HOSTILE, promoted=vocabulary, suppressed=vocabulary, attribution=None)
    view = of_one_neuron(made, tasks)
    card = parsed(view)
    shown = "".join(card.itertext())
    for text in HOSTILE:
        plain = text.replace("\u202e", "\ufffd").replace("\x1b", "\ufffd").replace("\n", "↵").replace("\t", "⇥")
        assert plain in shown
        assert plain in view.text(1000)
    for element in card.iter():
        assert element.tag in {
            "article", "header", "h4", "h5", "a", "code", "p", "b", "i", "bdi", "div", "ol", "ul", "li", "small",
            "span", "table", "thead", "tbody", "tr", "th", "td", "svg", "path", "text",
        }  # fmt: skip
        assert "style" not in element.attrib
        assert not any(name.startswith("on") for name in element.attrib)
    NeuronSet(
        [NeuronList(label, "tone", [(view.site, view.index, 0.5)]) for label in HOSTILE], dict.fromkeys(SITES, 512)
    ).save(tmp_path / "neurons.json")
    made.save(tmp_path / "cards.json")
    page = Page(build_report(tmp_path))
    assert page.tags.isdisjoint({"script", "img"})
    assert view.id in page.ids
    assert all(text.attrib["dir"] == "auto" for text in card.findall(".//div[@class='texts']//p"))
    isolated = ["".join(element.itertext()) for element in card.iter("bdi")]
    assert "מילה" in isolated
    assert isolated.count("[bold]") == 3  # as a label, promoted and suppressed


def test_a_neuron_of_two_labels_has_one_card(tmp_path: Path) -> None:
    make_run(tmp_path, TASKS, "cards")
    shared = (SITES[2], 5, 0.25)
    lists = [
        NeuronList("calm", "tone", [(SITES[0], 1, 0.5), shared]),
        NeuronList("loud", "tone", []),
        NeuronList("soft", "tone", []),
        NeuronList("glum", "mood", [shared]),
        NeuronList("glad", "mood", []),
    ]
    NeuronSet(lists, dict.fromkeys(SITES, 512), PROVENANCE).save(tmp_path / "neurons.json")
    views = affectron.read_cards(tmp_path)
    assert views["calm"][1] is views["glum"][0]
    assert [(view.label, view.rank, view.selected) for view in views["glum"][0].labels] == [
        ("calm", 2, 2),
        ("glum", 1, 1),
    ]
    (path := tmp_path / "validation.json").unlink()
    page = Page(build_report(tmp_path))
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links.count(f"#{views['glum'][0].id}") == 2
    assert not path.exists()
    articles = [attributes["id"] for tag, attributes in page.elements if tag == "article"]
    assert sorted(articles) == sorted([views["calm"][0].id, views["calm"][1].id])
    assert {link[1:] for link in links if link.startswith("#")} <= page.ids


def test_the_chapter_has_the_first_cards_open_and_the_others_folded(run: Path, tmp_path: Path) -> None:
    described = replace(make_cards(TASKS).options, count=7)
    Cards(PROVENANCE, described, make_cards(TASKS, 7).neurons).save(run / "cards.json")
    path = build_report(run, tmp_path)
    page, neurons = Page(path), make_neurons(TASKS)
    wanted = {(site, index) for of_label in neurons.values() for site, index, _ in of_label[:7]}
    assert len([tag for tag, _ in page.elements if tag == "article"]) == len(wanted)
    folded = [attributes for tag, attributes in page.elements if attributes.get("class") == "card-more"]
    assert len(folded) == 2 * len(neurons)
    assert not any("open" in attributes for attributes in folded)
    for view in affectron.read_cards(run, "soft")["soft"][:7]:
        assert view.id in page.ids
    assert f"{len(neurons['calm']) - 7} further neurons of this label" in page.words
    assert {"a": "#neuron-cards"} in [{"a": element["href"]} for tag, element in page.elements if tag == "a"]
    assert page.tags.isdisjoint({"script", "link"})


def test_tables_lead_to_the_cards_that_the_page_has(tmp_path: Path) -> None:
    made = make_cards(TASKS)
    make_run(tmp_path, TASKS, *KINDS)
    Cards(PROVENANCE, replace(made.options, count=1), made.neurons).save(tmp_path / "cards.json")
    first, second = NeuronList("a b", "tone", [(SITES[0], 0, 2.0), (SITES[0], 1, 1.0)]), NeuronList("none", "tone", [])
    NeuronSet([first, second], make_neurons(TASKS).widths, make_neurons(TASKS).provenance).save(
        tmp_path / "neurons.json"
    )
    source = build_report(tmp_path, tmp_path / "report").read_text(encoding="utf-8")
    page = Page(tmp_path / "report" / "index.html")
    card, group = f"neuron-{SITES[0]}-0", "cards-a%20b"
    assert {card, group} <= page.ids
    assert f'<a href="#{card}">{SITES[0]} 0</a>' in source
    assert f">{SITES[0]} 1</td>" in source  # it has no card
    assert f'<a href="#{group}">2</a></td>' in source
    links = [element["href"] for tag, element in page.elements if tag == "a" and element["href"].startswith("#")]
    assert {link[1:] for link in links} <= page.ids
    assert "#cards-none" not in links


def test_ids_are_those_of_the_neuron_and_nothing_else(run: Path) -> None:
    ids = [view.id for view in affectron.read_cards(run)["calm"]]
    assert ids == [f"neuron-{site}-{index}" for site, index, _ in make_neurons(TASKS)["calm"]]
    odd = [replace(affectron.read_cards(run)["calm"][0], site=site).id for site in ("a b", "a/b", "a%20b", "é")]
    assert len(set(odd)) == len(odd)
    assert not any(re.search(r"[\s/\"'<>#]", name) for name in odd)


def test_scores_are_those_of_the_statistics_each_computed_once_a_task(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []

    def counted(stats: ActivationStats, name: str, task: str, activations: ActivationStats | None = None) -> object:
        calls.append((name, task))
        return score(stats, name, task, activations)

    monkeypatch.setattr(cards, "score", counted)
    stats = make_stats(TASKS)
    fields = {site: {name: getattr(stats, name)[site] for name in FIELDS} for site in stats.sites}
    attributions, of_texts = (
        ActivationStats(stats.tasks, stats.segments, fields, {**PROVENANCE, "kind": "attribution", "metric": metric})
        for metric in ("answer", "text")
    )
    views = card_views(Pieces(stats=stats, attributions=attributions, neurons=make_neurons(TASKS)))
    assert (
        len(calls)
        == len(set(calls))
        == len(TASKS) * sum(kind.kind != "pair" and not kind.shifted for kind in SCORES.values())
    )
    for task, labels in TASKS.items():
        for name in scores_for(stats):
            values = score(stats, name, task)
            for row, label in enumerate(stats.tasks[task]):
                assert label in labels
                for view in views[label]:
                    (of_label,) = (one for one in view.labels if one.label == label)
                    value = values[view.site][row if SCORES[name].per_label else 0, view.index]
                    found = of_label.scores["activation"][name]
                    assert found == (pytest.approx(value) if np.isfinite(value) else None)
    assert set(views["calm"][0].labels[0].scores["attribution"]) == set(scores_for(attributions))
    assert not any("text_attribution" in line for line in views["calm"][0].absent)
    (view, *_) = card_views(Pieces(attributions=of_texts, neurons=make_neurons(TASKS)))["calm"]
    assert any("text_attribution" in line and "activations are not given" in line for line in view.absent)
    assert "attribution_t" in view.labels[0].scores["attribution"]


@pytest.mark.parametrize(
    ("file", "part", "command"),
    [
        ("stats.safetensors", "scores of activations", "affectron screen"),
        ("candidates.json", "AUROC", "affectron run"),
        ("cards.json", "texts, distributions and tokens", "affectron neurons RUN --model MODEL --corpus CORPUS"),
        ("responses.json", "dose-response", "affectron run"),
    ],
)
def test_a_missing_file_is_said_with_the_command_that_makes_it(
    file: str, part: str, command: str, tmp_path: Path
) -> None:
    make_run(tmp_path, TASKS, *KINDS)
    line = f"No {part}: there is no {file}, which {command} makes."
    before = affectron.read_cards(tmp_path)["calm"][0]
    assert line not in before.absent
    (tmp_path / file).unlink()
    after = affectron.read_cards(tmp_path)["calm"][0]
    assert line in after.absent
    assert line in "".join(parsed(after).itertext())
    assert line in " ".join(after.text().split())
    assert cards.chapter(Pieces.read(tmp_path)).count(line) == 1


def test_a_neuron_without_its_part_says_so(run: Path) -> None:
    views = affectron.read_cards(run)["calm"]
    last = views[-1]
    assert last.card is None
    assert "No texts, distributions and tokens: cards.json does not have this neuron." in last.missing
    assert "No dose-response for calm: responses.json does not have this neuron." in last.missing
    bare = of_one_neuron(
        one_card(
            Excerpt(("calm",), ("a", ""), (None, 0.0), 1, (False, False)),
            promoted=None,
            suppressed=None,
            attribution=None,
        )
    )
    assert [line.split(":")[0] for line in bare.missing] == [
        "No distribution of attributions", "No promoted tokens",
    ]  # fmt: skip
    assert [part for part, _, _ in tokens_of(parsed(bare).findall(".//div[@class='texts']//p")[0])] == ["a"]
    assert "«a»" in bare.text()


def test_distributions_and_responses_are_those_of_the_files(run: Path) -> None:
    view = affectron.read_cards(run)["calm"][0]
    assert view.card is not None
    assert view.card.attribution is not None
    card = parsed(view)
    rows = {row[0].text: row for row in card.findall(".//tbody/tr")}
    assert set(rows) == set(view.card.activation)
    assert next(iter(rows)) == "calm"
    for label, row in rows.items():
        numbers = [cell.text for cell in row.findall("td") if "class" not in cell.attrib]
        wanted = (view.card.activation[label].quantiles[2], view.card.attribution[label].mean)
        assert numbers == [f"{value:.3g}".replace("-", "−") for value in wanted]
    (drawing, _), labels = card.findall(".//td[@class='boxes']/svg"), list(rows)
    ends, sides, centres = (re.findall(r"M(\d+) (\d+)(?:H(\d+))?", path.attrib["d"]) for path in drawing[1:])
    assert [int(y) for _, y, _ in ends] == sorted(int(y) for _, y, _ in ends)
    placed = [[int(x) for x in (e[0], s[0], c[0], s[2], e[2])] for e, s, c in zip(ends, sides, centres, strict=True)]
    quantiles = [view.card.activation[label].quantiles for label in labels]
    slope, start = np.polyfit(np.ravel(quantiles), np.ravel(placed), 1)
    assert slope > 0
    assert np.abs(slope * np.array(quantiles) + start - placed).max() <= 1  # places are whole
    assert int(re.findall(r"M(\d+)", drawing[0].attrib["d"])[0]) == pytest.approx(start, abs=1)
    response = view.labels[0].response
    assert response is not None
    (curve,) = card.findall(".//svg[@class='curve']")
    assert curve.attrib["aria-label"] == ", ".join(
        f"×{factor:g}: {written(point.delta)} {written_pair(list(point.interval))}"
        for factor, point in zip(response.factors, response.points, strict=True)
    )
    heights = [float(y) for y in re.findall(r" ([\d.]+)", curve[2].attrib["d"])]
    deltas = [point.delta for point in response.points]
    assert np.corrcoef(heights, deltas)[0, 1] == pytest.approx(-1, abs=1e-3)


def test_the_boxes_are_said_to_be_of_the_rule_of_the_activations(tmp_path: Path) -> None:
    made = make_cards(TASKS)
    make_neurons(TASKS).save(tmp_path / "neurons.json")
    for rule, told in (("all", "mean activation over its tokens"), ("last", "activation at its last token")):
        Cards(PROVENANCE, replace(made.options, tokens=rule), made.neurons).save(tmp_path / "cards.json")
        assert f"Boxes: of each sentence the neuron's {told}" in Page(build_report(tmp_path)).words


def test_text_fits_the_width_and_marks_the_extreme_token(run: Path) -> None:
    view = affectron.read_cards(run)["calm"][0]
    assert view.card is not None
    text = view.text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for excerpt in (*view.card.top, *view.card.bottom):
        assert f"«{excerpt.tokens[excerpt.extreme].strip()}»" in text
    for colours in ("standard", "256", "truecolor"):
        file = io.StringIO()
        Console(file=file, width=80, color_system=colours, force_terminal=True).print(view)
        assert ("«" in file.getvalue()) == (colours == "standard")
        assert (";48;" in file.getvalue()) == (colours != "standard")  # a background


def test_files_of_two_models_and_no_neurons_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, TASKS, "cards")
    made = make_cards(TASKS)
    replace(made, provenance={**PROVENANCE, "weights": "others"}).save(tmp_path / "cards.json")
    with pytest.raises(InputError, match=r"do not belong together: the weights differ .*cards\.json: others"):
        affectron.read_cards(tmp_path)
    (tmp_path / "neurons.json").unlink()
    with pytest.raises(InputError, match=r"the run has no neurons\.json"):
        affectron.read_cards(tmp_path)
    assert "neuron-cards" not in Page(build_report(tmp_path)).ids
