# shellcheck shell=bash
# Sourced. Throw-away PostgreSQL clusters for tests: a Unix socket in a private directory, no TCP, no passwords.
#
#   cluster_start DIR [setting=value ...]   makes the cluster if DIR has none yet, starts it, points PG* at it
#   cluster_stop DIR                        stops it at once; removing DIR is the caller's
#
# DIR exists, is the caller's own and has a short path: a socket's is at most 107 bytes. The server logs to DIR/log.
# POSTGRES_BIN: the directory of other server programs than those installed; client programs are then those in PATH, if it has none.
# PostgreSQL refuses to run as root, so for root the server, and DIR with it, belong to postgres.

cluster_as_owner() (
    cd "$1" || exit
    shift
    if [ "$(id -u)" = 0 ]; then exec runuser -u postgres -- "$@"; else exec "$@"; fi
)

cluster_bindir() {
    local dir
    for dir in "${POSTGRES_BIN:-$(pg_config --bindir 2>/dev/null)}" ${POSTGRES_BIN:-/usr/lib/postgresql/*/bin}; do
        if [ -x "$dir/initdb" ]; then
            echo "$dir"
            return 0   # a bare return, called from an EXIT trap, would return the status before the trap
        fi
    done
    echo 'no PostgreSQL server programs found' >&2
    return 1
}

cluster_start() {
    local dir=$1 bindir
    shift
    bindir=$(cluster_bindir) || return 1
    if [ ! -d "$dir/data" ]; then
        [ "$(id -u)" != 0 ] || chown postgres: "$dir" || return 1
        cluster_as_owner "$dir" "$bindir/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null ||
            return 1
        printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$dir'" "$@" >>"$dir/data/postgresql.conf" || return 1
    fi
    unset PGHOSTADDR PGSERVICE PGOPTIONS PGPASSWORD PGSSLMODE PGCLIENTENCODING PGTARGETSESSIONATTRS
    export PGHOST=$dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
    cluster_as_owner "$dir" "$bindir/pg_ctl" -D "$dir/data" -l "$dir/log" -o '-p 5432' -w start >/dev/null ||
        { cat "$dir/log" >&2; return 1; }
}

cluster_stop() {
    local dir=$1 bindir
    [ -f "$dir/data/postmaster.pid" ] || return 0
    bindir=$(cluster_bindir) || return 1
    cluster_as_owner "$dir" "$bindir/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null
}
