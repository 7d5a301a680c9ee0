"""How is each command typed? The end of its help."""

from __future__ import annotations

BATCHGEN = """
\b
Examples:
  batchgen run jobs/sample.toml                 24 pictures from the simulator, no key needed
  batchgen run prompts.csv -o runs/tonight      buy what is missing; the same command resumes
  batchgen init prompts.csv                     a commented job file for a table of your own
  batchgen plan prompts.csv --budget 50         what that would do, cost and take; nothing is sent
  batchgen probe                                one request that says what a night there would meet
  batchgen plan prompts.csv --rehearse          how the night would go: time, money, 429s, failures
  batchgen status runs/tonight                  how far, how much, from any terminal
  batchgen verify runs/tonight                  is every picture there, and as it was bought?
  batchgen report runs/tonight                  a page with all pictures, to search and judge
  batchgen export runs/tonight --to hf          a dataset, with every row's origin in it
  batchgen models                               what there is, and what it costs
  batchgen simulate --port 8080                 the endpoint itself, offline, for any client
  batchgen completion bash                      completion for your shell
"""

RUN = """
\b
Examples:
  batchgen run jobs/sample.toml
  batchgen run prompts.csv -o runs/tonight -c 32 --rpm 900 --budget 50
  batchgen run products.parquet --template "A studio photo of {product} on {background}" --variants 2
  batchgen run prompts.csv --column prompt=Caption --column id=sku --name "{category}/{id}"
  batchgen run prompts.csv --base-url http://127.0.0.1:8080/v1 -m gemini-3-pro-image-preview
  batchgen run edits.csv --image-size 2K --aspect-ratio 16:9    a `references` column names pictures
  batchgen run shop.jsonl --expect text --response-format '{"type": "json_object"}'
  zcat prompts.csv.gz | batchgen run - -o runs/tonight
  batchgen run prompts.csv -o /shared/tonight -c 2000 --rpm 9000 --ray auto    on all nodes of a Ray cluster

\b
The same command again resumes: it buys only what is missing. What says what to buy and how is also a
key of a job file and an environment variable (--rpm, rpm, BATCHGEN_RPM); flags go before the environment,
the environment before the job file. The API key is read from --key-file, else from BATCHGEN_API_KEY or
the provider's own variable.

\b
Exit status: 0 every task it was about succeeded; 1 finished, some did not; 2 bad input, nothing sent;
3 stopped and resumable (budget, account, quota, disk, too many failures);
130/143 drained after a signal; 70 a defect.
"""

PLAN = """
\b
Examples:
  batchgen plan prompts.csv
  batchgen plan prompts.csv -o runs/tonight -c 32 --rpm 900 --budget 50 --deadline 07:00
  batchgen plan jobs/sample.toml --json | jq .cost.high_usd
  batchgen plan prompts.csv -c 64 --rehearse --quota 300
  batchgen plan prompts.csv --rehearse --latency 18 --fault overloaded=0.02 --fault refusal=0.01
  batchgen plan jobs/sample.toml --rehearse --json | jq .rehearsal.seconds.p95

\b
A rehearsed night meets what the flags say, else what the run directory has seen, else the simulator's own.

\b
Exit status: 0 it can be done as asked; 1 the budget, the deadline or the disk is not enough; 2 bad input.
"""

PROBE = """
\b
Examples:
  batchgen probe                                a plain red circle from core-today, about 5 cents
  batchgen probe -n                             the request it would send; needs no key
  batchgen probe jobs/tonight.toml              the job's settings, its first row's prompt
  batchgen probe prompts.csv --save first.jpg
  batchgen probe --base-url https://gateway.example/v1 -m gemini-3-pro-image-preview
  batchgen probe --provider simulator --json | jq .advice

\b
Nothing is asked, tried again, or booked anywhere: what it costs is told, and is not part of any run.

\b
Exit status: 0 a sound picture came (or words, where they are expected); 1 it did not; 2 bad input, nothing
sent; 3 the key, the account or its quota is in the way.
"""

INIT = """
\b
Examples:
  batchgen init prompts.csv                     jobs/prompts.toml
  batchgen init catalog.parquet -o catalog.toml
  batchgen run jobs/prompts.toml --provider simulator -o runs/trial     the first thing to do with it
"""

COMPLETION = """
\b
To have it for good:
  bash    batchgen completion bash > ~/.local/share/bash-completion/completions/batchgen
  zsh     echo 'eval "$(batchgen completion zsh)"' >> ~/.zshrc      (after compinit)
  fish    batchgen completion fish > ~/.config/fish/completions/batchgen.fish
"""

STATUS = """
\b
Examples:
  batchgen status runs/tonight
  batchgen status runs/tonight --watch          redrawn in place until the run has ended
  batchgen status runs/tonight --watch --every 60 >> night.log
  batchgen status runs/tonight --json | jq '.done, .cost_usd, .eta_s'
"""

VERIFY = """
\b
Examples:
  batchgen verify runs/tonight
  batchgen verify runs/tonight --check quick    hashes and structure, without decoding
  batchgen verify runs/tonight --repair         names, account and table put right; nothing is bought
  batchgen verify runs/tonight --json | jq .problems

\b
Exit status: 0 all is well, or is now; 1 there are problems, or some are left; 2 no run directory, a ledger
that cannot be read, or (with --repair) a run at work.
"""

EXPORT = """
\b
Examples:
  batchgen export runs/tonight --to hf                    Parquet shards and a card: load_dataset(OUT)
  batchgen export runs/tonight --to webdataset --shard-size 1GB -o /data/tars
  batchgen export runs/tonight --to imagefolder --where category=shoes
  batchgen export runs/tonight --to csv --status all      the table alone; failed rows too
  batchgen export runs/tonight --to jsonl --only chosen.csv --absolute

\b
Columns are called as in results.parquet, with sha256, mime, width, height and bytes in the place of
images; a column of yours that is called like one of them becomes manifest_NAME. Money is exact. In a CSV a
text that a spreadsheet would take for a formula (= + - @ tab, carriage return) gets a ' in front. Drafts
stay behind.

\b
Exit status: 0 all is there; 1 rows are missing, whose pictures are lost or altered; 2 bad input, or OUT
holds something else; 3 the disk refuses: the same command goes on.
"""

REPORT = """
\b
Examples:
  batchgen report runs/tonight                  runs/tonight/report.html, thumbnails beside it
  batchgen report runs/tonight --inline -o tonight.html    one file to send; originals stay where they are
  batchgen report runs/tonight --thumbnails 512 --limit 50000

\b
The page needs no network and no server, and runs no script but its own. Reject what you do not like, save
rejects.csv from it, and `batchgen run SOURCE --only rejects.csv --again` buys those rows anew.

\b
Exit status: 0 the page is there; 1 it is, and pictures are missing or damaged; 2 no run directory, or a
ledger that cannot be read; 3 the disk refuses.
"""

SIMULATE = """
\b
Examples:
  batchgen simulate --port 8080
  batchgen simulate --port 8080 --rpm 60 --fault overloaded=0.05 --fault refusal=0.02 --seed 7
  batchgen simulate --port 8080 --no-chat-pictures     what Google's own chat endpoint does
  BATCHGEN_API_KEY=any batchgen run p.csv --provider core-today --base-url http://127.0.0.1:8080/v1
"""
