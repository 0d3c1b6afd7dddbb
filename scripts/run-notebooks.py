"""Runs notebooks headless in small mode: python scripts/run-notebooks.py [NAME ...]. Nothing is written into them.

Prints a line a notebook with its time, what a failed cell printed, and at last `N passed, N failed`.
"""

import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT_S = 300


def run(path: Path) -> str | None:
    """Runs one notebook. Returns what is wrong with it, or None."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="grpolab",
        timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except Exception as error:  # whatever it is, the other notebooks run and the count is printed
        return f"{type(error).__name__}: {error}"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    errors = [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    if errors:
        return "\n".join(errors[0].traceback)
    if not any(cell.outputs for cell in cells):
        return "no cell has any output"
    return None


def main(names: list[str]) -> int:
    directory = ROOT / "notebooks"
    paths = sorted(directory.glob("*.ipynb"))
    if names:
        paths = [path for path in paths if any(path.name.startswith(name) for name in names)]
    if not paths:
        print(f"no notebook in {directory} starts with {' or '.join(names)}", file=sys.stderr)
        return 2
    os.environ["GRPOLAB_SMALL"] = "1"
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("JUPYTER_PATH")]))
    if not names:
        shutil.rmtree(ROOT / "runs" / "small-mode", ignore_errors=True)
    failed = 0
    for path in paths:
        begin = time.monotonic()
        problem = run(path)
        failed += problem is not None
        print(f"{'ok  ' if problem is None else 'FAIL'} {path.name} {time.monotonic() - begin:.1f} s", flush=True)
        if problem is not None:
            print(problem, file=sys.stderr)
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
