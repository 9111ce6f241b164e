"""Reports: they come back from JSON as they were, and tables never mix protocols silently."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from fretsaw.errors import ConfigError, DataError, OutputError
from fretsaw.evaluation.published import published_click_rows
from fretsaw.evaluation.report import Failure, PublishedRow, Report, mixed_table, table, versions


def report(**changes) -> Report:
    values = Report(
        task="clicks",
        protocol="sam",
        dataset="grabcut",
        model="tiny",
        metrics={"NoC@90": 1.5, "NoC@95": math.nan},
        samples=({"sample": "a", "ious": [0.5, 1 / 3]},),
        protocol_fields={"max_clicks": 20, "target_iou": 0.95},
        dataset_size=1,
        warnings=("w",),
        failures=(Failure("b", "DataError", "no mask"),),
        timing={"SPC": 0.25},
    )
    return replace(values, **changes)


def test_a_report_comes_back_from_json_as_it_was(tmp_path):
    original = report()
    original.save(tmp_path / "deep" / "r.json")
    again = Report.load(tmp_path / "deep" / "r.json")
    assert math.isnan(again.metrics["NoC@95"])
    assert replace(again, metrics={}) == replace(original, metrics={})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r.json"]


def test_the_json_has_the_fields_that_others_rely_on_and_no_nan():
    content = json.loads(report().to_json(), parse_constant=lambda word: pytest.fail(word))
    assert content["protocol"] == "sam"
    assert content["dataset"] == "grabcut"
    assert content["model"] == "tiny"
    assert content["metrics"] == {"NoC@90": 1.5, "NoC@95": None}
    assert content["samples"][0]["ious"][1] == 1 / 3
    assert content["failures"] == [{"sample": "b", "kind": "DataError", "error": "no mask"}]


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"task": "clicks"}', '{"task":"a","protocol":"b","dataset":"c","model":"d","metrics":{},"format":99}'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(DataError, match=r"report"):
        Report.from_json(text)


def test_a_field_of_the_same_format_that_is_unknown_is_left_out():
    content = json.loads(report().to_json()) | {"new": 1}
    assert Report.from_json(json.dumps(content)).model == "tiny"


def test_unwritable_and_missing_files_are_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can be written"):
        report().save(tmp_path / "file" / "r.json")
    with pytest.raises(DataError, match="expected a report at"):
        Report.load(tmp_path / "none.json")


def test_one_row_per_report_with_missing_values_as_dashes():
    text = table([report(), report(model="other", metrics={"NoC@90": 0.5}, failures=())], ["NoC@90", "NoC@95", "SPC"])
    lines = text.splitlines()
    assert lines[0] == "clicks, protocol sam"
    assert lines[1].split() == ["model", "data", "set", "n", "NoC@90", "NoC@95", "SPC"]
    assert lines[3].split() == ["tiny", "grabcut", "1*", "1.50", "-", "0.25"]
    assert lines[4].split() == ["other", "grabcut", "1", "0.5", "-", "0.25"]
    assert "* tiny on grabcut: 1 samples failed" in text


def test_a_partial_data_set_is_marked():
    text = table([report(failures=(), expected_size=50)], ["NoC@90"])
    assert "1*" in text
    assert "* tiny on grabcut: 1 of 50 samples" in text


def test_other_protocols_and_other_fields_of_one_protocol_are_refused():
    with pytest.raises(ConfigError, match=r"clicks/sam and clicks/hrsam"):
        table([report(), report(protocol="hrsam")], ["NoC@90"])
    with pytest.raises(ConfigError, match=r"clicks/sam and auto/sam"):
        table([report(), report(task="auto")], ["NoC@90"])
    with pytest.raises(ConfigError, match=r"max_clicks 20 / 10"):
        table([report(), report(protocol_fields={"max_clicks": 10, "target_iou": 0.95})], ["NoC@90"])


def test_a_mixed_table_says_so():
    text = mixed_table([report(), report(protocol="hrsam")], ["NoC@90"])
    assert text.splitlines()[0] == "Measured under different protocols (clicks/hrsam, clicks/sam): rows of different protocols do not compare."
    assert "hrsam" in text.splitlines()[4]


def test_papers_rows_stand_apart_and_only_for_the_data_sets_shown():
    rows = [PublishedRow("paper, table 1", "SAM", "ViT-H", "SA-1B", "grabcut", {"NoC@90": 1.88}), PublishedRow("p", "X", "Y", "Z", "davis", {"NoC@90": 1.0})]
    text = table([report()], ["NoC@90"], rows)
    assert "Printed by the papers, each under its own protocol" in text
    assert "SAM ViT-H (SA-1B)" in text
    assert "davis" not in text
    assert "Printed" not in table([report(dataset="holiday")], ["NoC@90"], rows)


def test_published_rows_are_those_of_the_papers(shared):
    rows = published_click_rows()
    best = next(row for row in rows if (row.method, row.backbone, row.dataset) == ("SAM-REF", "ViT-H", "grabcut"))
    assert best.metrics == {"NoC@90": 1.36, "NoC@95": 2.36, "SPC": 0.511}
    inter = next(row for row in rows if (row.method, row.dataset) == ("InterFormer", "berkeley"))
    assert inter.metrics == {"NoC@90": 3.14, "SPC": 0.153}
    # Every figure appears in the paper's text.
    for number, marks in (("004", "004"), ("003", "003")):
        [path] = (shared / "papers").glob(f"{number}_*.txt")
        text = path.read_text().replace("<b>", "").replace("</b>", "")
        words = set(text.split())
        figures = [value for row in rows if f"paper {marks}" in row.source for value in row.metrics.values()]
        assert len(figures) > 40
        missing = {value for value in figures if not {f"{value:g}", f"{value:.1f}", f"{value:.2f}", f"{value:.3f}"} & words}
        assert not missing


def test_versions_name_python_and_torch():
    assert {"python", "torch", "numpy"} <= set(versions())
