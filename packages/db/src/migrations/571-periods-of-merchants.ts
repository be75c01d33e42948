import type { MigrationInterface, QueryRunner } from 'typeorm';
import { isDistributed } from '../distribution.ts';

const PERIODS = {
  usage_daily: 'date',
  usage_daily_models: 'date',
  usage_quarter_hours: 'bucket',
  usage_quarter_months: 'quarter_month',
  usage_monthly: 'month',
  usage_monthly_models: 'month',
  usage_yearly: 'year',
};

/**
 * Indexes of periods also have the merchant. Postgres expects a large merchant to have the same share of each period; by
 * the period alone it read all merchants to find one.
 */
export class PeriodsOfMerchants1763856000571 implements MigrationInterface {
  name = 'PeriodsOfMerchants1763856000571';
  transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    const how = (await isDistributed(runner)) ? '' : 'concurrently';
    for (const [table, period] of Object.entries(PERIODS))
      await replaceIndex(runner, table, {
        old: `${table}_${period}`,
        name: `${table}_${period}_merchant`,
        columns: `${period}, merchant_id`,
        how,
      });
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const [table, period] of Object.entries(PERIODS))
      await replaceIndex(runner, table, {
        old: `${table}_${period}_merchant`,
        name: `${table}_${period}`,
        columns: period,
        how: '',
      });
  }
}

/**
 * Builds an index and then drops another one; may be repeated after an interruption. `how`: `concurrently` lets writers go
 * on, but not in a transaction, in which TypeORM runs `down`.
 */
async function replaceIndex(
  runner: QueryRunner,
  table: string,
  { old, name, columns, how }: { old: string; name: string; columns: string; how: '' | 'concurrently' },
): Promise<void> {
  const [found] = (await runner.query(
    `select coalesce((select indisvalid from pg_index where indexrelid = to_regclass($1)), true) as valid`,
    [name],
  )) as { valid: boolean }[];
  if (!found!.valid) await runner.query(`drop index ${how} ${name}`);
  await runner.query(`create index ${how} if not exists ${name} on ${table} (${columns})`);
  await runner.query(`drop index ${how} if exists ${old}`);
}
