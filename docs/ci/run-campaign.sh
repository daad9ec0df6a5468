#!/usr/bin/env bash
# Runs a campaign for CI and publishes its result: run-campaign.sh CAMPAIGN [REPORT.xml]
# VPT_SERVER and VPT_TOKEN are the server and the token, VPT_WAIT is the time limit in seconds.
# Exits like `vpt run`: 0 passed, 1 a test failed, 2 infrastructure, 3 time limit, 4 wrong usage.
set -uo pipefail

if [ $# -lt 1 ]; then
    echo "usage: run-campaign.sh CAMPAIGN [REPORT.xml]" >&2
    exit 4
fi
campaign=$1 report=${2:-vpt-report.xml}

# A CI system that cancels the job signals this shell only: forward it, and vpt cancels the run.
vpt run campaign "$campaign" --junit "$report" --wait-timeout "${VPT_WAIT:-7200}" &
run=$!
trap 'kill -TERM $run 2>/dev/null' INT TERM
code=0
wait $run || code=$?
while kill -0 $run 2>/dev/null; do # a signal ended the wait, not the run
    code=0
    wait $run || code=$?
done

case $code in
0) words="passed" ;;
1) words="failed" ;;
2) words="has no result: infrastructure error" ;;
3) words="has not ended yet" ;;
4) words="was not run: wrong usage" ;;
*) words="ended with $code" ;;
esac
echo "Campaign $campaign $words."
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    {
        echo "### $campaign $words"
        [ -s "$report" ] && echo "JUnit report: \`$report\`"
    } >>"$GITHUB_STEP_SUMMARY"
fi
exit "$code"
