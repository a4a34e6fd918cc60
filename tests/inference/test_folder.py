"""What a folder of a job says of itself."""

import json

import numpy as np

from leapstep import workers
from leapstep.inference import folder
from numbers_work import KEY, Numbers


def test_a_job_is_described_in_its_folder_and_in_that_of_its_results(tmp_path):
    inner = tmp_path / "shards"
    done = workers.run(Numbers(), inner, KEY, 22, batch_size=2, shard=4, device="cpu", progress=False)
    (tmp_path / "results.json").write_text(json.dumps({"likelihood": {}}))
    for place in (inner, tmp_path):
        said = folder.opened(place).described()
        assert said["holds"] == "a job, counting of numbers"
        assert (said["shards"], said["there"], said["format"]) == ("6 of 6, of 4 each", "22 of 22 numbers", "npy")
        assert "problems" not in said
    np.save(done.paths[3], np.zeros(99))
    said = folder.opened(tmp_path)
    assert [str(problem).partition(":")[0] for problem in said.problems()] == ["00003.npy"]
    assert said.described()["go_on"] == "the command that began it"


def test_what_nothing_tells_of_is_said(tmp_path):
    workers.run(Numbers(), tmp_path, KEY, 22, batch_size=2, shard=4, device="cpu", progress=False)
    for log in tmp_path.glob("log-*.jsonl"):
        log.unlink()
    assert not folder.opened(tmp_path).problems()
    assert {problem.said for problem in folder.opened(tmp_path).problems(hashes=True)} == {"nothing tells its SHA-256"}


def test_another_folder_is_none(tmp_path):
    assert folder.opened(tmp_path) is None
    assert folder.opened(tmp_path / "nowhere") is None
    latents = '{"spec": {"n": 4}, "weights_sha256": "", "finished": true}'
    for text in ("[]", "{}", '{"spec": {"n": "many"}, "weights_sha256": "", "finished": 4}', latents):
        (tmp_path / "manifest.json").write_text(text)
        assert folder.opened(tmp_path) is None


def test_what_a_specification_leaves_out_is_as_usual(tmp_path):
    (tmp_path / "manifest.json").write_text('{"spec": {"steps": 3}, "weights_sha256": "0", "finished": 0}')
    said = folder.opened(tmp_path).described()
    assert (said["spec"]["method"], said["spec"]["steps"], said["there"]) == ("ddim", 3, "0 of 1 sample")
