/** Where the team of a row may come from, the first one wins: its API key, then its user; a merchant's entry first. */
const TEAMS = [
  { name: 'team_of_key', kind: 'apiKey', column: 'api_key', isGeneral: false },
  { name: 'team_of_any_key', kind: 'apiKey', column: 'api_key', isGeneral: true },
  { name: 'team_of_user', kind: 'user', column: 'user_id', isGeneral: false },
  { name: 'team_of_any_user', kind: 'user', column: 'user_id', isGeneral: true },
] as const;

/** The team of a row of a table with `withTeams`; '' without a team. */
export const TEAM = `coalesce(${TEAMS.map(({ name }) => `${name}.${name}`).join(', ')}, '')`;

/** Joins the rows of `table` with their teams: Citus rejects a lookup for each row. The names of its columns stay clear. */
export function withTeams(table: string): string {
  const joins = TEAMS.map(({ name, kind, column, isGeneral }) => {
    const entries = `
      select id as ${name}_id, merchant_id as ${name}_merchant, team as ${name}
      from directory_entries where kind = '${kind}' and team is not null`;
    const merchant = isGeneral ? `''` : `${table}.merchant_id`;
    return `left join (${entries}) as ${name} on ${name}_id = ${table}.${column} and ${name}_merchant = ${merchant}`;
  });
  return [table, ...joins].join(' ');
}
