#!/usr/bin/python3
"""Counts what `meson test` ran: count.py NAME TESTLOG.JSON

A unit test's executable counts as many tests as it says it has; any other as one. Prints what failed, with its output,
and what was skipped, with its reason; then "N passed, N failed, N skipped".
"""

import json
import re
import sys


def main():
    name, path = sys.argv[1:]
    passed = failed = skipped = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            tests = [json.loads(line) for line in log]
    except OSError:
        tests = []
    for test in tests:
        output = (test.get("stdout") or "") + (test.get("stderr") or "")
        title = f"{name}/{test['name'].split(':')[-1].split(' / ')[-1]}"
        for note in re.findall(r"^NOTE .*", output, re.MULTILINE):
            print(note)
        summaries = re.findall(r"Checks: (\d+), Failures: (\d+), Errors: (\d+)", output)
        bad = sum(int(failures) + int(errors) for _, failures, errors in summaries)
        good = sum(int(checks) for checks, _, _ in summaries) - bad
        reasons = re.findall(r"skipped: .*", output)
        if test["result"] == "SKIP":
            skipped += 1
            print(f"SKIP {title}: {(reasons or output.strip().splitlines() or ['no reason given'])[-1]}")
            continue
        if test["result"] != "OK":
            bad = max(bad, 1)
            print(f"FAIL {title}: {test['result']}\n{output[-4000:]}")
        elif not summaries:
            good = 1
        passed, failed = passed + max(good, 0), failed + bad
        for reason in reasons:
            skipped += 1
            print(f"SKIP {title}: {reason}")
    if not tests:
        failed = 1
        print(f"FAIL {name}: no test was run")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")


if __name__ == "__main__":
    main()
