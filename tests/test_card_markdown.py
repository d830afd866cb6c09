"""Lists and tables of the Markdown card."""

from brainseg_tf.card_markdown import bullets, metrics_table


def test_values_are_written_with_four_digits():
    values = {"share": 0.123456, "side": "", "none": None, "interval": [0.25, 0.75], "three": [1.0, 2.0, 3.0]}
    assert bullets(values) == [
        "- share: 0.1235",
        "- side: ",
        "- none: none",
        "- interval: 0.25 to 0.75",
        "- three: 1, 2, 3",
    ]
    # A card has tuples before it is written, and lists after it was read.
    assert bullets({"components": (2, 3)}) == bullets({"components": [2, 3]}) == ["- components: 2, 3"]
    assert bullets({"nested": {"a": 1, "b": 0.5}}) == ["- nested: a 1, b 0.5"]


def test_the_table_has_each_cut_and_the_baseline():
    mixture = {"dice": 0.84912, "dice_interval": [0.815, 0.88], "dice_median": 0.8901, "missed": 2, "patients": 30}
    metrics = {"patients": "30 patients", "network": {"mixture": mixture, "oracle": {"dice": 0.9}}, "no network": {}}
    empty, heading, rule, *rows = metrics_table(metrics)
    assert not empty
    assert heading.startswith("| method, cut | Dice | 95 % interval | median Dice | missed | IoU |")
    columns = heading.count("|")
    assert rule.count("---") == columns - 1
    assert rows[0].startswith("| network, mixture | 0.8491 | 0.815 to 0.88 | 0.8901 | 2 |  |")
    assert rows[1].startswith("| network, oracle | 0.9 |  |  |  |  |")
    assert rows[2].startswith("| no network, mixture |  |")
    assert all(row.count("|") == columns for row in rows[:3])
    assert rows[3:] == ["", "- patients: 30 patients"]


def test_metrics_without_a_network_are_a_list():
    assert metrics_table({}) == []
    assert metrics_table({"heads": 3}) == ["- heads: 3"]
