"""`denoise`: what its server blends, when its sites label, and what they then train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import (
    Finished,
    Watched,
    open_sites,
    run_through,
    run_watched,
    tiny_run,
    write_federation,
)
from torch import Tensor

from fedssl.config import RunConfig, Scalar, flatten
from fedssl.data.site_data import SiteTrainingData
from fedssl.errors import ConfigError
from fedssl.functional.averaging import weighted_average
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import ServerSetup
from fedssl.methods.denoise import DenoiseRule
from fedssl.types import Arrays, Download, Output, Role, SiteInfo, Stage, Task, Upload

Start = Callable[..., Finished]
PAIR = {"north": "labeled", "west": "unlabeled"}
BASE: dict[str, Scalar] = {"denoise.warmup-rounds": 1, "denoise.passes": 2, "denoise.refresh": 1}


@pytest.fixture
def configure(tmp_path: Path, prepared_cache: Path) -> Callable[..., RunConfig]:
    def build(method: str, keys: Mapping[str, Scalar], roles: Mapping[str, str]) -> RunConfig:
        own = BASE if method == "denoise" else {}
        file = write_federation(tmp_path / "-".join(roles), roles)
        return tiny_run(file, prepared_cache, {"method": method, "rounds": 3, **own, **keys})

    return build


@pytest.fixture
def start(configure: Callable[..., RunConfig], tmp_path: Path) -> Start:
    def run(
        method: str = "denoise",
        keys: Mapping[str, Scalar] | None = None,
        roles: Mapping[str, str] | None = None,
        **watch: object,
    ) -> Finished:
        config = configure(method, keys or {}, roles or PAIR)
        return run_watched(config, tmp_path / f"run{len(list(tmp_path.iterdir()))}", **watch)

    return run


def trained(run: Finished, site: str) -> list[Upload]:
    return [u for u in run.exchange.trained if u.site == site and u.stage == "train"]


# --- the blend of the two groups -----------------------------------------------------------------


def test_mu_1_is_fedavg_over_the_labeled_sites_bit_for_bit(start: Start):
    assert start(keys={"denoise.mu": 1.0}).digest == start("fedavg").digest
    assert start(keys={"denoise.mu": 0.9}).digest != start("fedavg").digest


def test_without_unlabeled_sites_denoise_is_fedavg_bit_for_bit(start: Start):
    roles = {"north": "labeled", "east": "labeled"}
    assert start(roles=roles).digest == start("fedavg", roles=roles).digest


def poisoned(upload: Upload) -> Upload:
    """Put one NaN into the unlabeled site's upload."""
    if upload.site != "west" or not upload.weights:
        return upload
    weights = {name: value.clone() for name, value in upload.weights.items()}
    weights["head.bias"][0] = torch.nan
    return replace(upload, weights=weights)


@pytest.mark.parametrize("mu", [0.7, 1.0])
def test_an_upload_with_nan_is_refused_and_the_labeled_sites_carry_the_round(
    mu: float, start: Start, caplog: pytest.LogCaptureFixture
):
    run = start(keys={"denoise.mu": mu}, change=poisoned)
    refused = [r.getMessage() for r in caplog.records if "Refused" in r.getMessage()]
    assert refused == ["Refused: Site 'west': 'head.bias' holds NaN or infinity."] * 2
    assert run.digest == start("fedavg").digest
    assert [list(r["sites"]) for r in run.rounds] == [["north"]] * 3
    assert [r["rule"] for r in run.rounds] == [{"mu": 1.0}] * 3


def random_upload(site: str, role: Role, seed: int, examples: int, labeled: int) -> Upload:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "w": torch.randn(3, 4, generator=generator),
        "steps": torch.tensor(seed),
    }
    metrics = {"retained": 0.5} if role != Role.LABELED else {}
    return Upload(site, role, 9, "train", examples, labeled, weights, metrics=metrics)


UPLOADS = [
    random_upload("a", Role.LABELED, 1, 10, 10),
    random_upload("b", Role.MIXED, 2, 50, 20),
    random_upload("c", Role.UNLABELED, 3, 30, 0),
    random_upload("d", Role.UNLABELED, 4, 40, 0),
]
STAGE = Stage("train", ("a", "b", "c", "d"), trains=("shared",))


def merged(keys: Mapping[str, Scalar], uploads: list[Upload], round_: int = 9) -> Arrays:
    return rule(keys).merge(round_, STAGE, uploads[0].weights, uploads)


def rule(keys: Mapping[str, Scalar], roles: tuple[str, ...] = ()) -> DenoiseRule:
    run = load_config({"method": "denoise", "rounds": 30, **keys})
    roster = {u.site: SiteInfo(u.site, u.role, u.num_examples, u.num_labeled) for u in UPLOADS}
    roster = {name: roster[name] for name in roles or roster}
    task = Task("t", ("background", "disc", "cup"), output=Output.NESTED, channels=3)
    return DenoiseRule(ServerSetup(run.method_config, run, task, roster, {"shared": ("w",)}))


def test_mu_auto_is_fedavg_over_all_sites():
    expected = weighted_average([u.weights for u in UPLOADS], [10, 20, 30, 40])
    torch.testing.assert_close(
        merged({"denoise.mu": "auto"}, UPLOADS)["w"], expected["w"], atol=1e-6, rtol=0
    )


def test_the_groups_are_averaged_by_samples_and_blended_with_mu():
    a, b, c, d = (u.weights["w"].double() for u in UPLOADS)
    xi, psi = (a + 2 * b) / 3, (3 * c + 4 * d) / 7
    result = merged({"denoise.mu": 0.6}, UPLOADS)
    torch.testing.assert_close(result["w"], (0.6 * xi + 0.4 * psi).float())
    assert result["steps"] == 1  # a counter: the first labeled site's


def test_unlabeled_sites_may_be_weighed_by_what_they_retain():
    uploads = [*UPLOADS[:3], replace(UPLOADS[3], metrics={"retained": 0.0})]
    keys = {"denoise.mu": 0.6, "denoise.weight-by-retained": True}
    a, b, c = (u.weights["w"].double() for u in UPLOADS[:3])
    torch.testing.assert_close(
        merged(keys, uploads)["w"], (0.6 * (a + 2 * b) / 3 + 0.4 * c).float()
    )
    none = [*UPLOADS[:2], *(replace(u, metrics={"retained": 0.0}) for u in UPLOADS[2:])]
    assert torch.equal(merged(keys, none)["w"], merged({"denoise.mu": 1.0}, UPLOADS)["w"])


@pytest.mark.parametrize("retained", [-3.0, 7.0])
def test_a_site_cannot_report_its_way_to_another_weight(retained: float):
    keys = {"denoise.mu": 0.6, "denoise.weight-by-retained": True}
    uploads = [*UPLOADS[:3], replace(UPLOADS[3], metrics={"retained": retained})]
    bound = [*UPLOADS[:3], replace(UPLOADS[3], metrics={"retained": float(retained > 0)})]
    assert torch.equal(merged(keys, uploads)["w"], merged(keys, bound)["w"])


def test_mu_falls_from_1_over_the_ramp_after_the_warm_up():
    falling = rule({"denoise.mu": 0.6, "denoise.mu-ramp": 4, "denoise.warmup-rounds": 10})
    seen = []
    for round_ in (10, 11, 12, 14, 20):
        falling.merge(round_, STAGE, UPLOADS[0].weights, UPLOADS)
        seen.append(falling.metrics()["mu"])
    assert seen == pytest.approx([1.0, 0.9, 0.8, 0.6, 0.6])


# --- the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "warmup", "refresh", "expected"),
    [(5, 1, 2, [1, 3]), (4, 0, 3, [0, 3]), (4, 2, 0, [2]), (6, -1, -1, [2, 3, 4, 5])],
)
def test_a_site_labels_at_the_rounds_of_the_clock_and_at_no_other(
    rounds: int,
    warmup: int,
    refresh: int,
    expected: list[int],
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
):
    written = rounds_in_which_maps_are_stored(monkeypatch)
    keys = {"rounds": rounds, "denoise.warmup-rounds": warmup, "denoise.refresh": refresh}
    run = start(keys={**keys, "local-steps": 1})
    assert [n - 1 for n in sorted(set(written))] == expected
    asked = [d for d in run.exchange.downloads if d.site == "north" and d.stage == "train"]
    first = min(expected)
    assert [d.clock["phase"] for d in asked] == [1.0] * first + [2.0] * (rounds - first)
    assert [u.round for u in trained(run, "west")] == list(range(first, rounds))


def rounds_in_which_maps_are_stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count rounds by the labeled site's training, and note when maps are stored."""
    written: list[int] = []
    rounds: set[int] = set()
    send, store = Watched.send, SiteTrainingData.store

    def counting(self, downloads, roster):
        rounds.update(d.round for d in downloads if d.stage == "train")
        return send(self, downloads, roster)

    def noting(self, case, **maps):
        written.append(len(rounds))
        store(self, case, **maps)

    monkeypatch.setattr(Watched, "send", counting)
    monkeypatch.setattr(SiteTrainingData, "store", noting)
    return written


def test_a_third_of_the_rounds_warms_up_and_a_sixth_lies_between_relabelings():
    default = rule({"rounds": 150})
    refreshes = [t for t in range(150) if default.clock(t)["refresh"]]
    assert refreshes == [50, 75, 100, 125]
    assert [t for t in range(150) if default.clock(t)["phase"] == 1.0] == list(range(50))


def test_a_warm_up_that_leaves_no_round_is_an_error_that_names_both_keys():
    keys = {"method": "denoise", "rounds": 5, "denoise.warmup-rounds": 5}
    with pytest.raises(ConfigError, match=r"'denoise\.warmup-rounds' = 5.*'rounds' = 5"):
        load_config(keys)
    assert load_config({**keys, "rounds": 6}).rounds == 6
    assert load_config({"method": "denoise", "rounds": 1}).rounds == 1


# --- prototypes and teachers ---------------------------------------------------------------------

THREE = {"east": "labeled", "north": "labeled", "west": "unlabeled"}


@pytest.mark.parametrize("source", ["local", "labeled", "mix"])
def test_prototypes_are_collected_at_refreshes_unless_they_are_local(source: str, start: Start):
    run = start(keys={"rounds": 4, "denoise.refresh": 2, "denoise.prototypes": source}, roles=THREE)
    extra = [] if source == "local" else ["prototypes"]
    assert [r["stages"] for r in run.rounds] == [
        ["train"],
        [*extra, "train"],
        ["train"],
        [*extra, "train"],
    ]
    asked = {u.site for u in run.exchange.trained if u.stage == "prototypes"}
    assert asked == ({"east", "north"} if extra else set())
    received = [sorted(d.knowledge) for d in run.exchange.downloads if d.site == "west"][:3]
    names = ["prototype_background", "prototype_object", "prototype_valid"] if extra else []
    assert received == [names, [], names]
    assert all(not d.knowledge for d in run.exchange.downloads if d.site in ("east", "north"))


def test_pooled_prototypes_are_sums_over_sites_divided_once(start: Start):
    run = start(keys={"denoise.prototypes": "labeled", "rounds": 2}, roles=THREE)
    sums = [u.knowledge for u in run.exchange.trained if u.stage == "prototypes"]
    received = next(d.knowledge for d in run.exchange.downloads if d.site == "west")
    assert len(sums) == 2
    for side in ("object", "background"):
        total = sums[0][f"{side}_sum"] + sums[1][f"{side}_sum"]
        weight = sums[0][f"{side}_weight"] + sums[1][f"{side}_weight"]
        valid = received["prototype_valid"]
        expected = torch.where(valid[:, None], total / weight[:, None], torch.zeros_like(total))
        torch.testing.assert_close(received[f"prototype_{side}"], expected, rtol=0, atol=1e-12)
        assert total.shape == (2, 4)


def test_the_teachers_are_the_labeled_sites_last_models_or_their_average(start: Start):
    for source, count in (("ensemble", 2), ("labeled_avg", 1), ("global", 0)):
        run = start(keys={"denoise.source": source, "rounds": 2}, roles=THREE)
        last = [u for u in run.exchange.trained if u.round == 0]
        received = next(d.knowledge for d in run.exchange.downloads if d.site == "west")
        assert {key.partition("/")[0] for key in received} == {f"teacher.{i}" for i in range(count)}
        models = [u.weights for u in last]
        average = weighted_average(models, [u.num_labeled for u in last])
        for index, model in enumerate(models if count == 2 else [average] * count):
            for name, value in model.items():
                assert torch.equal(received[f"teacher.{index}/{name}"], value), (source, name)


def test_a_resumed_rule_remembers_its_teachers():
    before, after = rule({"denoise.source": "ensemble"}), rule({"denoise.source": "ensemble"})
    before.merge(9, STAGE, UPLOADS[0].weights, UPLOADS)
    after.load_state(before.state())
    names = [f"teacher.{i}/{name}" for i in (0, 1) for name in ("steps", "w")]
    assert sorted(after.state()) == names
    assert all(torch.equal(after.state()[k], v) for k, v in before.state().items())


# --- what a site trains on -----------------------------------------------------------------------


def test_without_dropout_every_pixel_is_certain_and_a_warning_says_so(
    start: Start, caplog: pytest.LogCaptureFixture
):
    keys = {"model.dropout-bottleneck": 0.0, "model.dropout-head": 0.0}
    run = start(keys={**keys, "denoise.denoising": "uncertainty"})
    assert [u.metrics["retained"] for u in trained(run, "west")] == [1.0, 1.0]
    assert "trusts every pixel" in caplog.text


def test_a_site_that_trusts_nothing_trains_nothing_and_returns_the_weights_it_got(start: Start):
    run = start(keys={"denoise.eta": 1e-12})
    sent = [d for d in run.exchange.downloads if d.site == "west" and d.stage == "train"]
    uploads = trained(run, "west")
    assert len(sent) == len(uploads) == 2
    for download, upload in zip(sent, uploads, strict=True):
        assert upload.metrics["retained"] == upload.metrics["cases_kept"] == 0.0
        assert upload.metrics["steps_skipped"] == run.run.local_steps
        assert upload.weights.keys() == download.weights.keys()
        assert all(torch.equal(upload.weights[k], v) for k, v in download.weights.items())
    weighed = start(keys={"denoise.eta": 1e-12, "denoise.weight-by-retained": True})
    assert weighed.digest == start("fedavg").digest


def test_a_site_that_missed_the_relabeling_labels_when_it_comes(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    written = rounds_in_which_maps_are_stored(monkeypatch)
    run = start(keys={"rounds": 4, "denoise.refresh": 0, "min-unlabeled": 0}, absent={(1, "west")})
    assert sorted(set(written)) == [3]
    assert [u.round for u in trained(run, "west")] == [2, 3]
    assert all(u.metrics["retained"] > 0 for u in trained(run, "west"))


def test_a_mixed_site_learns_from_masks_first_and_from_both_later(start: Start):
    run = start(roles={"north": "labeled", "south": "mixed"})
    first, *later = trained(run, "south")
    assert "loss/supervised" in first.metrics
    assert "loss/pseudo" not in first.metrics
    for upload in later:
        assert {"loss/supervised", "loss/pseudo", "retained"} <= upload.metrics.keys()
        assert upload.metrics["cases_kept"] == len(run.exchange.sites["south"].data.unlabeled)


def stored(run: Finished, site: str) -> list[dict[str, np.ndarray]]:
    data = run.exchange.sites[site].data
    data.load_stored()
    return [{k: np.array(v) for k, v in data.stored_maps(c).items()} for c in data.unlabeled]


def test_stored_pseudo_labels_are_binary_and_nested(start: Start):
    run = start(keys={"lr": 0.01, "local-steps": 8, "denoise.gamma": 0.5, "denoise.eta": 0.5})
    maps = stored(run, "west")
    assert len(maps) == len(run.exchange.sites["west"].split.train)
    for each in maps:
        assert set(each) == {"pseudo", "trust"}
        disc, cup = each["pseudo"]
        assert set(np.unique(each["pseudo"])) <= {0, 1}
        assert set(np.unique(each["trust"])) <= {0, 1}
        assert not (cup & ~disc & 1).any()


def test_the_masked_dice_can_be_added_to_the_loss(start: Start):
    plain, with_dice = start(), start(keys={"denoise.dice-weight": 1.0})
    for ours, theirs in zip(trained(with_dice, "west"), trained(plain, "west"), strict=True):
        assert ours.metrics["loss/pseudo"] > theirs.metrics["loss/pseudo"]
        assert ours.metrics["loss/pseudo"] < theirs.metrics["loss/pseudo"] + 1.1


def test_a_class_counts_only_where_every_class_is_trusted_in_exclusive_tasks(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    """Two classes, each trusted in its own half: no pixel has a target, so there is no step."""
    from fedssl.engine import pick_device
    from fedssl.memory import FileMemory
    from fedssl.methods.base import LocalSetup
    from fedssl.seeds import generators
    from fedssl.types import UnlabeledBatch, View

    run = configure("denoise", {}, PAIR)
    task = Task("t", ("background", "liver", "tumor"), channels=3)
    method = METHODS["denoise"]
    assert method.unlabeled is not None
    objective = method.unlabeled(
        LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=method.build_model(run, task),
            memory=FileMemory(tmp_path, 0, 0),
            rng=generators(0, "test"),
            device=pick_device("cpu"),
            role=Role.UNLABELED,
        )
    )

    def terms(trust: Tensor) -> int:
        view = View(torch.randn(1, 3, 32, 32), torch.eye(2, 3)[None])
        maps = {"pseudo": torch.zeros(1, 2, 32, 32, dtype=torch.uint8), "trust": trust}
        batch = UnlabeledBatch({"weak": view, "strong": view}, maps, torch.tensor([0]))
        return len(objective.training_step(None, batch).unsupervised)

    halves = torch.zeros(1, 2, 32, 32, dtype=torch.uint8)
    halves[:, 0, :16], halves[:, 1, 16:] = 1, 1
    assert terms(halves) == 0
    halves[:, 1, 15] = 1
    assert terms(halves) == 1


def test_an_ensemble_labels_with_the_mean_of_its_teachers_maps(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    """Without dropout one pass is exact: the label is where the mean map exceeds gamma."""
    keys = {
        "denoise.source": "ensemble",
        "denoise.denoising": "none",
        "denoise.passes": 1,
        "denoise.gamma": 0.5,
        "model.dropout-bottleneck": 0.0,
        "model.dropout-head": 0.0,
        "rounds": 2,
    }
    run = configure("denoise", keys, THREE)
    finished = run_through(Watched(open_sites(run, tmp_path / "run")), run, tmp_path / "run")
    site = finished.exchange.sites["west"]
    models = [u.weights for u in finished.exchange.trained if u.round == 0]
    network = METHODS["denoise"].build_model(run, site.task).eval()
    for case, maps in zip(site.data.unlabeled, stored(finished, "west"), strict=True):
        probs = []
        for weights in models:
            network.load_state_dict(weights)
            with torch.no_grad():
                probs.append(network(site.data.image(case)[None]).logits.sigmoid()[0])
        disc, cup = ((probs[0] + probs[1]) / 2 > 0.5).numpy()
        np.testing.assert_array_equal(maps["pseudo"][0], disc)
        np.testing.assert_array_equal(maps["pseudo"][1], cup & disc)


# --- whether it helps ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Finished:
    """Two labeled sites teach until the loss is level; a third has not been seen."""
    roles = {"east": "labeled", "north": "labeled", "west": "unlabeled"}
    folder = tmp_path_factory.mktemp("learned")
    keys: dict[str, Scalar] = {
        "method": "fedavg",
        "rounds": 20,
        "local-steps": 20,
        "batch-size": 4,
        "lr": 0.003,
        "model.width": 8,
        "model.depth": 3,
    }
    run = tiny_run(write_federation(folder, roles, images=12, size=48), prepared_cache, keys)
    return run_watched(run, folder / "run")


def quality(learned: Finished, folder: Path, denoising: str) -> dict[str, float]:
    """Label the unseen site with the learned weights, and compare with its hidden masks."""
    from fedssl.evaluate import means

    keys = {"method": "denoise", "denoise.denoising": denoising, "denoise.warmup-rounds": 0}
    flat = {**flatten(learned.run), **keys, "rounds": 1, "local-steps": 1, "out": str(folder)}
    run = load_config({k: v for k, v in flat.items() if not k.startswith("fedavg.")})
    site = open_sites(run, folder)["west"]
    weights = load_file(learned.folder / "model.safetensors")
    clock = {"phase": 2.0, "refresh": 1.0}
    site.answer(Download("r", 0, "train", "west", 0, weights, {}, ("shared",), clock))
    options = {"split": "val"}
    evaluation = Download("r", 1, "evaluate", "west", 1, weights, options=options)
    return means(site.answer(evaluation).metrics)


@pytest.mark.parametrize("denoising", ["prototype", "both"])
def test_trusted_pixels_are_right_more_often_than_the_raw_pseudo_label(
    denoising: str, learned: Finished, tmp_path: Path
):
    found = quality(learned, tmp_path, denoising)
    for name in ("disc", "cup"):
        assert found[f"pseudo_dice/{name}"] > 0.5, "the teacher has learned nothing"
        assert found[f"trusted_precision/{name}"] > found[f"pseudo_precision/{name}"]
        if denoising == "both":
            assert found[f"trusted_accuracy/{name}"] > found[f"pseudo_accuracy/{name}"]


def test_without_denoising_every_pixel_is_trusted(learned: Finished, tmp_path: Path):
    found = quality(learned, tmp_path, "none")
    for name in ("disc", "cup"):
        assert found[f"trusted_precision/{name}"] == found[f"pseudo_precision/{name}"]
        assert found[f"trusted_accuracy/{name}"] == found[f"pseudo_accuracy/{name}"]
