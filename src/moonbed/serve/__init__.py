"""The store in a browser, live while it trains; read, never written.

Pages: `/` lists the runs, `/runs/<id>` shows one, `/runs/<id>/report` is its full report. They are fed by JSON that
anybody may read. Times are seconds since 1970, losses means over 100 steps:

`GET /api/runs`
    {"store", "runs": [RUN]}, the last begun first. RUN has `id` (of the training), `status` (training, sampling,
    evaluating, done, interrupted, diverged or damaged), `message` (what is wrong, if something is), `name` (the nearest
    preset), `differs` ([[place, value]] from it), `seed`, `steps`, `step`, `loss` (null before the first), `spark` (a
    few losses), `seconds` of training, `parameters`, `device`, `started`, `updated`, and `experiments`: [{`id`,
    `status`, `sampler`, `n`, `told`, `exploded`, `metrics`: how many}].
`GET /api/runs/<id>`
    RUN with `spec`, `log` ([[step, loss]]), `versions`, and in each experiment its `spec` and `values`: [{`metric`,
    `value`, `interval`, `floor`: 5 % and 95 % of `draws` exact draws, `text`}]; "inf" and "nan" are texts.
`GET /api/runs/<id>/live`
    {"step", "document", "blob", "samples", "target", "reason"}: the model of the last checkpoint, or of the finished
    training, as `moonbed.live` writes it, the blob in base64. Of one that a browser cannot run `samples` are {`points`,
    `dim`, `sampler`}, drawn by the server, and `target` exact ones. Where there is neither, `reason` says why.

Every answer has an `ETag`; with it in `If-None-Match`, what has not changed is 304. An unknown id is 404, any method
but GET and HEAD 405.
"""

from moonbed.serve.server import serve
from moonbed.serve.web import application, is_loopback

__all__ = ["application", "is_loopback", "serve"]
