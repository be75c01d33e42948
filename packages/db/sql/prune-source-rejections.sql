-- Keeps the newest rejections of each source.
-- $1 sources   $2 number kept
delete from source_rejections
using (
  select id, row_number() over (partition by source order by id desc) as place
  from source_rejections
  where source = any ($1)
) as placed
where source_rejections.id = placed.id and placed.place > $2
