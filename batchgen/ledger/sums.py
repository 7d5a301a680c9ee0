"""
What do all tasks and attempts add up to, without going through them?

Two small tables hold the sums: of settled attempts by run and error class, of tasks by status and error
class. Triggers keep them within the statement that changes a row, whoever writes it; so a look at a million
rows takes no longer than one at ten. A ledger of a former version, which may only be read, has them as views.
"""

from __future__ import annotations

UNKNOWN = (
    "ifnull({0}error_class IN ('uncertain', 'bad_answer')"
    " OR {0}error_class IS NULL AND {0}cost IS NULL AND {0}reserved IS NOT NULL, 0)"
)
"""Of a settled attempt: maybe billed without saying so, or its picture outlived its answer in a crash."""
_ADDED = {
    "attempts": "1",
    "submitted": "({0}submitted_at IS NOT NULL)",
    "prompt_tokens": "{0}prompt_tokens",
    "text_tokens": "{0}text_tokens",
    "image_tokens": "{0}image_tokens",
    "total_tokens": "{0}total_tokens",
    "cost": "ifnull({0}cost, 0)",
    "unknown": UNKNOWN,
    "exposed": f"iif({UNKNOWN}, ifnull({{0}}reserved, 0), 0)",
    "charged": f"iif({UNKNOWN}, ifnull({{0}}reserved, 0), max(ifnull({{0}}cost, 0), ifnull({{0}}billed, 0)))",
    "unpriced": "({0}total_tokens > 0 AND {0}cost IS NULL)",
}
"""What is summed up of attempts; `{0}` is whose columns. Money in nano-USD; 0 where it is not known."""
COLUMNS = tuple(_ADDED)
_OF_ATTEMPT = "{0}run, ifnull({0}error_class, '')"
_OF_TASK = "{0}status, ifnull({0}error_class, ''), 0"
_IN_WORDS = "ifnull({0}status = 'succeeded' AND {0}images = '[]', 0)"
"""A task that succeeded without a picture was done in words; it is counted once more among those."""

_FRESH_ATTEMPTS = (
    "SELECT run, ifnull(error_class, '') AS class, "  # noqa: S608  nobody's values are in here, nor below
    + ", ".join(f"sum({term.format('')}) AS {name}" for name, term in _ADDED.items())
    + " FROM attempts WHERE settled_at IS NOT NULL GROUP BY 1, 2"
)
# By two indices: the rows themselves, with all their pictures, are not looked at.
_FRESH_TASKS = """
SELECT status, ifnull(error_class, '') AS class, 0 AS in_words, count(*) AS tasks FROM tasks
  GROUP BY status, error_class
UNION ALL SELECT 'succeeded', '', 1, count(*) FROM tasks WHERE status = 'succeeded' AND images = '[]'
  HAVING count(*) > 0
"""

_ADD_ATTEMPT = (
    f"INSERT INTO attempt_sums SELECT {_OF_ATTEMPT.format('NEW.')}, "
    + ", ".join(term.format("NEW.") for term in _ADDED.values())
    + " WHERE NEW.settled_at IS NOT NULL ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _ADDED)
)
_TAKE_ATTEMPT = (
    "UPDATE attempt_sums SET "  # noqa: S608
    + ", ".join(f"{name} = {name} - {term.format('OLD.')}" for name, term in _ADDED.items())
    + f" WHERE OLD.settled_at IS NOT NULL AND (run, class) = ({_OF_ATTEMPT.format('OLD.')})"
)
_ADD_TASK = (
    f"INSERT INTO task_sums SELECT {_OF_TASK.format('NEW.')}, 1"
    f" UNION ALL SELECT 'succeeded', '', 1, 1 WHERE {_IN_WORDS.format('NEW.')}"
    " ON CONFLICT DO UPDATE SET tasks = tasks + 1"
)
_TAKE_TASK = (
    f"UPDATE task_sums SET tasks = tasks - 1 WHERE (status, class, in_words) = ({_OF_TASK.format('OLD.')})"  # noqa: S608
    f" OR (status, class, in_words) = ('succeeded', '', 1) AND {_IN_WORDS.format('OLD.')}"
)

RENEW = (
    "DELETE FROM attempt_sums",
    f"INSERT INTO attempt_sums {_FRESH_ATTEMPTS}",
    "DELETE FROM task_sums",
    f"INSERT INTO task_sums {_FRESH_TASKS}",
)
"""Statements that add everything up again."""
TABLES = f"""
CREATE TABLE attempt_sums (
  run INTEGER NOT NULL, class TEXT NOT NULL, {", ".join(f"{name} INTEGER NOT NULL" for name in COLUMNS)},
  PRIMARY KEY (run, class)
) WITHOUT ROWID;
CREATE TABLE task_sums (
  status TEXT NOT NULL, class TEXT NOT NULL, in_words INTEGER NOT NULL, tasks INTEGER NOT NULL,
  PRIMARY KEY (status, class, in_words)
) WITHOUT ROWID;
CREATE TRIGGER attempt_added AFTER INSERT ON attempts WHEN NEW.settled_at IS NOT NULL
  BEGIN {_ADD_ATTEMPT}; END;
CREATE TRIGGER attempt_changed AFTER UPDATE ON attempts
  WHEN NEW.settled_at IS NOT NULL OR OLD.settled_at IS NOT NULL
  BEGIN {_TAKE_ATTEMPT}; {_ADD_ATTEMPT}; END;
CREATE TRIGGER attempt_gone AFTER DELETE ON attempts WHEN OLD.settled_at IS NOT NULL
  BEGIN {_TAKE_ATTEMPT}; END;
CREATE TRIGGER task_added AFTER INSERT ON tasks
  BEGIN {_ADD_TASK}; END;
CREATE TRIGGER task_changed AFTER UPDATE OF status, error_class, images ON tasks
  WHEN ({_OF_TASK.format("NEW.")}) IS NOT ({_OF_TASK.format("OLD.")})
    OR {_IN_WORDS.format("NEW.")} <> {_IN_WORDS.format("OLD.")}
  BEGIN {_TAKE_TASK}; {_ADD_TASK}; END;
CREATE TRIGGER task_gone AFTER DELETE ON tasks
  BEGIN {_TAKE_TASK}; END;
"""
"""The tables and what keeps them; empty, for a ledger that is."""
VIEWS = f"""
CREATE TEMP VIEW attempt_sums AS {_FRESH_ATTEMPTS};
CREATE TEMP VIEW task_sums AS {_FRESH_TASKS};
"""
"""The same for a former ledger, added up with every look."""


def _differences(table: str, fresh: str, held: str) -> str:
    """Sums that are not what they ought to be, or that nothing stands behind."""
    ours = f"SELECT * FROM {table} WHERE {held} <> 0"  # noqa: S608
    return (
        f"SELECT count(*) FROM (SELECT * FROM ({ours} EXCEPT SELECT * FROM ({fresh}))"  # noqa: S608
        f" UNION ALL SELECT * FROM (SELECT * FROM ({fresh}) EXCEPT {ours}))"
    )


WRONG = (
    _differences("attempt_sums", _FRESH_ATTEMPTS, "attempts"),
    _differences("task_sums", _FRESH_TASKS, "tasks"),
)
"""Each counts the sums of one table that do not agree with its rows."""
