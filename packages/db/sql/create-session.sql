-- Starts a session of a key, and removes sessions that ended and the oldest of the key beyond a number.
-- $1 hash of the session's secret   $2 id of the key, null for the admin's key of the settings   $3 hash of the key's secret
-- $4 name   $5 role   $6 merchant   $7 team   $8 now   $9 expiry   $10 sessions of one key at once
-- Returns the session's id.
with ended as (
  delete from api_keys
  where kind = 'session'
    and (
      expires_at <= $8
      or id in (
        select id from api_keys
        where kind = 'session' and parent_hash = $3
        order by created_at desc offset $10 - 1
      )
    )
)
insert into api_keys (hash, kind, parent_id, parent_hash, name, role, merchant_id, team_id, created_at, expires_at)
values ($1, 'session', $2, $3, $4, $5, $6, $7, $8, $9)
returning id
