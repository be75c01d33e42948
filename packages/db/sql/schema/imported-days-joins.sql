-- Whether the view usage_imported_days is the one for Citus.
select pg_get_viewdef('usage_imported_days'::regclass) ~ 'JOIN' as joins
