import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Starts and ends of the periods of budgets: without gaps and overlaps, also where clocks change. */
export class StartsOfPeriods1763856000420 implements MigrationInterface {
  name = 'StartsOfPeriods1763856000420';

  async up(runner: QueryRunner): Promise<void> {
    // `truncated`: date_trunc of any moment of the period.
    await runner.query(`
      create function budget_period_of(period text, truncated timestamptz, zone text) returns timestamptz
      language plpgsql stable parallel safe as $$
      begin
        if period = 'hour' then
          -- Where clocks change by half an hour, the hour before ends later than this one would begin.
          if date_trunc('hour', truncated, zone) <> truncated then
            return date_trunc('hour', truncated, zone) + interval '1 hour';
          end if;
        -- Where clocks go back over midnight, Postgres takes the second one.
        elsif period <> 'total'
          and (truncated - interval '1 hour') at time zone zone = truncated at time zone zone then
          return truncated - interval '1 hour';
        end if;
        return truncated;
      end
      $$`);
    await runner.query(`
      create function budget_period_start(period text, moment timestamptz, zone text) returns timestamptz
      language plpgsql stable parallel safe as $$
      begin
        return case period
          when 'total' then to_timestamp(0)
          else budget_period_of(period, date_trunc(period, moment, zone), zone)
        end;
      end
      $$`);
    await runner.query(`
      create function budget_period_end(period text, moment timestamptz, zone text) returns timestamptz
      language plpgsql stable parallel safe as $$
      begin
        return case period
          when 'total' then null
          when 'hour' then date_trunc('hour', moment, zone) + interval '1 hour'
          else budget_period_start(
            period,
            ((budget_period_start(period, moment, zone) at time zone zone) + ('1 ' || period)::interval)
              at time zone zone,
            zone)
        end;
      end
      $$`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop function budget_period_end(text, timestamptz, text)');
    await runner.query('drop function budget_period_start(text, timestamptz, text)');
    await runner.query('drop function budget_period_of(text, timestamptz, text)');
  }
}
