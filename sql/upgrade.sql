-- Part of install.sql: runs upgrades/N.sql for each version after :installed up to :schema_version.
SELECT :installed < :schema_version AS behind, :installed + 1 AS next \gset
\if :behind
    \ir upgrades/:next.sql
    \set installed :next
    \ir upgrade.sql
\endif
