"""The alarms in deploy/prometheus, with Prometheus' own promtool: each fires and stays quiet when it should. The dashboard in deploy/grafana."""
import json
import re
import subprocess

import pytest

from documents import METRICS, TEXTS
from server import ROOT

RULES = ROOT / "deploy/prometheus/pgpoll.rules.yml"
ALARMS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.M)

MINUTES = 60
# What a host without a problem tells, a minute each: the value at first and what is added, as in promtool. Or all values, with spaces.
HEALTHY = {
    'up': "1", 'pgpoll_build_info{version="1"}': "1", 'pgpoll_database_up': "1", 'pgpoll_database_timeline': "2", 'pgpoll_manager_up': "1", 'pgpoll_listener_up': "1",
    'pgpoll_workers': "500", 'pgpoll_workers_free': "300", 'pgpoll_statistics_age_seconds': "1", 'pgpoll_notification_queue_used_ratio': "0",
    'pgpoll_polls_total{outcome="ok"}': "0+600", 'pgpoll_polls_total{outcome="released"}': "0+20",
    'pgpoll_polls_total{outcome="database_away"}': "7", 'pgpoll_polls_total{outcome="can_poll_timeout"}': "7",
    'pgpoll_access_answers_forgotten_total': "7", 'pgpoll_log_lines_lost_total': "7",
    'pgpoll_delivery_latency_seconds_bucket{le="0.005"}': "0+500", 'pgpoll_delivery_latency_seconds_bucket{le="1"}': "0+600",
    'pgpoll_delivery_latency_seconds_bucket{le="15"}': "0+600", 'pgpoll_delivery_latency_seconds_bucket{le="+Inf"}': "0+600"}
FROM_DATABASE = [name for name in HEALTHY if re.search("_total|_bucket|_ratio", name)]
AWAY = {'pgpoll_database_up': "0", 'pgpoll_listener_up': "0", **dict.fromkeys(FROM_DATABASE)}

# What differs at a sick host (None: there is no such series), and the alarm. Without an alarm: this is not worth one.
CASES = [
    ("PgpollDown", {**dict.fromkeys(HEALTHY), 'up': "0"}),
    ("PgpollManagerDown", {'pgpoll_manager_up': "0", 'pgpoll_workers': "0", 'pgpoll_workers_free': "0", 'pgpoll_listener_up': "0"}),
    ("PgpollManagerDown", {'pgpoll_manager_up': "0", 'pgpoll_workers': None, 'pgpoll_workers_free': None, 'pgpoll_listener_up': None}),
    (None, {'pgpoll_manager_up': "0", 'pgpoll_listener_up': None}),     # workers without a manager
    ("PgpollDatabaseAway", AWAY),
    ("PgpollListenerDown", {'pgpoll_listener_up': "0"}),
    ("PgpollListenerDown", {'pgpoll_listener_up': "0" + " 0 1 0" * 20}),     # as behind PgBouncer
    (None, {'pgpoll_listener_up': "1" + " 1" * 57 + " 0 1"}),    # a restart
    (None, {'pgpoll_database_up': "1" + " 0" * 57 + " 1 1", 'pgpoll_listener_up': "1" + " 0" * 58 + " 1"}),   # the database is back
    ("PgpollStatisticsOld", {'pgpoll_statistics_age_seconds': "0+60"}),
    (None, {'pgpoll_statistics_age_seconds': "0+60", 'pgpoll_workers_free': "500"}),    # no polls
    ("PgpollPollsFail", {'pgpoll_polls_total{outcome="database_away"}': "0+1"}),
    ("PgpollPollsFail", {'pgpoll_polls_total{outcome="readers_busy"}': "0+1"}),
    ("PgpollAccessFails", {'pgpoll_polls_total{outcome="can_poll_timeout"}': "0+1"}),
    ("PgpollAccessMemoryFull", {'pgpoll_access_answers_forgotten_total': "0+100"}),
    ("PgpollTooFewWorkers", {'pgpoll_polls_total{outcome="released"}': "0+100"}),
    ("PgpollMessagesLate", {'pgpoll_delivery_latency_seconds_bucket{le="0.005"}': "0+100", 'pgpoll_delivery_latency_seconds_bucket{le="1"}': "0+400"}),
    ("PgpollNotificationQueue", {'pgpoll_notification_queue_used_ratio': "0.02"}),
    ("PgpollLogLinesLost", {'pgpoll_log_lines_lost_total': "0+1"}),
    ("PgpollTimelinesDiffer", {'pgpoll_database_timeline': "1"}),
    ("PgpollVersionsDiffer", {'pgpoll_build_info{version="1"}': None, 'pgpoll_build_info{version="2"}': "1"}),
    (None, {})]


def series(instance, differences, minutes):
    for name, values in {**HEALTHY, **differences}.items():
        if values:
            metric, _, labels = name.partition("{")
            host = "" if metric in ("up", "pgpoll_notification_queue_used_ratio") else f'host="{instance}",'
            yield {"series": f'{metric}{{job="pgpoll",instance="{instance}",{host}{labels or "}"}',
                   "values": values if " " in values else values + ("" if "+" in values else "+0") + f"x{minutes}"}


def firing(alarm, differences):
    minutes = 7 * 60 if alarm == "PgpollVersionsDiffer" else MINUTES
    of_all = alarm in ("PgpollNotificationQueue", "PgpollTimelinesDiffer", "PgpollVersionsDiffer")
    labels = f'{{alertname="{alarm}"' + ('}' if of_all else ',instance="sick"}')
    return {"interval": "1m", "input_series": [*series("sick", differences, minutes), *series("well", {}, minutes)],
            "promql_expr_test": [{"expr": 'count by (alertname, instance) (ALERTS{alertstate="firing"})', "eval_time": f"{minutes}m",
                                  "exp_samples": [{"labels": labels, "value": 1}] if alarm else []}]}


def promtool_accepts(promtool, *command):
    done = subprocess.run([promtool, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_right(promtool):
    promtool_accepts(promtool, "check", "rules", RULES)
    assert {alarm for alarm, _ in CASES} - {None} == set(ALARMS)


def test_the_head_says_what_to_write(promtool, tmp_path):
    """It does so for prometheus.yml, with the job that the alarms name."""
    said = "".join(re.findall(r"^# {3}(.*\n)", RULES.read_text(), re.M)).replace("/etc/prometheus/pgpoll.rules.yml", str(RULES))
    (tmp_path / "prometheus.yml").write_text(said)
    promtool_accepts(promtool, "check", "config", tmp_path / "prometheus.yml")
    assert re.findall("job_name: (.*)", said) == re.findall('job="(.*?)"', RULES.read_text()) and "metrics_path: /messages/poll/metrics\n" in said


def test_each_alarm_fires_and_stays_quiet(promtool, tmp_path):
    """JSON is YAML."""
    tests = tmp_path / "tests.yml"
    tests.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [firing(*case) for case in CASES]}))
    promtool_accepts(promtool, "test", "rules", tests)


def metrics_in(query):
    return {re.sub("_bucket$", "", name) for name in re.findall(r"\bpgpoll_\w+", query)}


def test_alarms_use_metrics_that_exist():
    used = metrics_in(" ".join(re.findall(r"expr: (.*?)\n +(?:for|labels):", RULES.read_text(), re.S)))
    assert len(used) > 10 and used <= set(METRICS)


def test_the_dashboard(promtool, tmp_path):
    """The file is what the script makes. Prometheus understands its queries, which show every metric."""
    made = subprocess.run([ROOT / "deploy/grafana/make-dashboard"], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "deploy/grafana/pgpoll.json").read_text(), "run deploy/grafana/make-dashboard"
    dashboard = json.loads(made)
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set().union(*map(metrics_in, queries)) == set(METRICS)
    for query in queries:
        for name in metrics_in(query):
            assert (METRICS[name] == "gauge") != ("rate(" in query), query
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "queries", "rules": [
        {"record": f"query{number}", "expr": query.replace("$__rate_interval", "5m")} for number, query in enumerate(queries)]}]}))
    promtool_accepts(promtool, "check", "rules", rules)


@pytest.mark.parametrize("alarm", ALARMS)
def test_documented(alarm):
    assert f"`{alarm}`" in TEXTS["docs/metrics.md"]
