import type pg from 'pg';

/**
 * Returns the schema as text, from the catalogs: tables with columns, constraints and indexes, in order of name.
 * Partitions of the journal are data, not schema.
 */
export async function dumpSchema(client: pg.Client): Promise<string> {
  const { rows: tables } = await client.query<{ oid: string; name: string; partition_key: string | null }>(`
    select c.oid, c.relname as name, pg_get_partkeydef(c.oid) as partition_key
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    order by c.relname`);
  const parts: string[] = [];
  for (const { oid, name, partition_key } of tables) {
    const lines = await column<string>(
      client,
      `select format('  %I %s%s%s%s', attname, format_type(atttypid, atttypmod),
         case when attnotnull then ' not null' else '' end,
         case attidentity when 'a' then ' generated always as identity' else '' end,
         coalesce(' default ' || pg_get_expr(adbin, adrelid), ''))
       from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
       where attrelid = $1 and attnum > 0 and not attisdropped order by attnum`,
      oid,
    );
    const constraints = await column<string>(
      client,
      `select format('  constraint %I %s', conname, pg_get_constraintdef(oid)) from pg_constraint
       where conrelid = $1 and contype <> 'n' order by conname`,
      oid,
    );
    const indexes = await column<string>(
      client,
      `select pg_get_indexdef(indexrelid) || ';' from pg_index
       where indrelid = $1 and not exists (select from pg_constraint where conindid = indexrelid)
       order by indexrelid::regclass::text`,
      oid,
    );
    const partitioned = partition_key === null ? '' : ` partition by ${partition_key}`;
    parts.push([`table ${name} (`, [...lines, ...constraints].join(',\n'), `)${partitioned};`, ...indexes].join('\n'));
  }
  // Columns, not definitions: Postgres words those differently from version to version.
  const views = await column<string>(
    client,
    `select format('view %I.%I (%s)', n.nspname, c.relname,
       string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum))
     from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on attrelid = c.oid and attnum > 0
     where c.relkind = 'v' and n.nspname not in ('pg_catalog', 'information_schema') and $1::oid is null
     group by n.nspname, c.relname order by 1`,
    null,
  );
  return `${[...parts, ...views].join('\n\n')}\n`;
}

async function column<T>(client: pg.Client, text: string, value: unknown): Promise<T[]> {
  const { rows } = await client.query({ text, values: [value], rowMode: 'array' });
  return rows.map(([first]) => first as T);
}
