-- Returns one unit of each metric type as a decimal: '0.01' where it has two decimals.
-- $1 metric types
select name, tally_sources.unit_of(name)::text as unit from unnest($1::text[]) as name
