"""What TensorBoard reads of a run: its own reader opens the event files."""

import json

import pytest

from moejax.train.records import Records, settings

CONFIG = {
    "name": "tiny",
    "seed": 3,
    "model": {"dim": 16, "moe": {"router": {"name": "top_k", "num_experts": 3}}},
    "optimizer": {"learning_rate": 0.5, "weight_decay_rules": [["kernel$", 1.0]]},
    "train": {"steps": 4, "log_every": 1, "mesh": {"data": -1}, "init_from": None},
}
ROWS = [
    {"step": 2, "train/loss": 2.0, "block_01/load": [0.5, 0.25, 0.25], "valid/accuracy": 0.25, "note": "text"},
    {"step": 4, "train/loss": 1.0, "block_01/load": [1.0, 0.0, 0.0], "valid/accuracy": 0.5},
    {"step": 4, "test/accuracy": 0.75},
]


def write(workdir, rows, *, step=0, config=CONFIG):
    records = Records(workdir, step=step, config=config, metric="valid/accuracy")
    for row in rows:
        records.write(row)
    records.close()


@pytest.fixture
def events():
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(workdir):
        return accumulator.EventAccumulator(
            str(workdir / "tensorboard"), size_guidance={"histograms": 0, "tensors": 0}
        ).Reload()

    return read


@pytest.mark.lenient
def test_event_files_say_what_the_rows_say(tmp_path, events):
    write(tmp_path, ROWS)
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(2, 2.0), (4, 1.0)]
    assert [(e.step, e.value) for e in found.Scalars("test/accuracy")] == [(4, 0.75)]
    assert [e.value for e in found.Scalars("block_01/load/00")] == [0.5, 1.0]
    assert "note" not in found.Tags()["scalars"] and "step" not in found.Tags()["scalars"]


@pytest.mark.lenient
def test_loads_are_histograms_with_a_bar_per_expert(tmp_path, events):
    write(tmp_path, ROWS)
    first, second = [e.histogram_value for e in events(tmp_path).Histograms("block_01/load")]
    # An empty bucket up to 0, then one that ends at e + 1 for expert e.
    assert list(first.bucket_limit) == [0.0, 1.0, 2.0, 3.0] and list(first.bucket) == [0.0, 0.5, 0.25, 0.25]
    assert (first.min, first.max, first.num) == (0.0, 3.0, 1.0)
    # Mean place of the work: 0.5 * 0.5 + 1.5 * 0.25 + 2.5 * 0.25 = 1.25; all on expert 0: 0.5.
    assert (first.sum, second.sum) == (1.25, 0.5)


@pytest.mark.lenient
def test_config_and_settings(tmp_path, events):
    from tensorboard.plugins.hparams import plugin_data_pb2

    write(tmp_path, ROWS)
    found = events(tmp_path)
    (text,) = found.Tensors("config/text_summary")
    assert json.loads(text.tensor_proto.string_val[0].decode().strip("`").removeprefix("json")) == CONFIG
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert started["optimizer.learning_rate"].number_value == 0.5 and started["model.dim"].number_value == 16
    assert started["model.moe.router.name"].string_value == "top_k"
    assert not any(name.startswith("train.mesh") for name in started)
    content = found.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [m.name.tag for m in experiment.metric_infos] == ["train/loss", "valid/accuracy", "test/accuracy"]


@pytest.mark.lenient
def test_steps_after_the_checkpoint_are_taken_back(tmp_path, events):
    write(tmp_path, ROWS[:2])
    again = CONFIG | {"seed": 4}
    write(tmp_path, [ROWS[1] | {"train/loss": 0.5}], step=2, config=again)
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(2, 2.0), (4, 0.5)]
    assert [e.step for e in found.Histograms("block_01/load")] == [2, 4]
    assert [e.step for e in found.Tensors("config/text_summary")] == [0, 2]  # what it was, and what it is since


def test_settings_are_plain():
    assert settings(CONFIG) == {
        "seed": 3,
        "model.dim": 16,
        "model.moe.router.name": "top_k",
        "model.moe.router.num_experts": 3,
        "optimizer.learning_rate": 0.5,
        "optimizer.weight_decay_rules": '[["kernel$", 1.0]]',
        "train.steps": 4,
    }
    assert settings({}) == {}
