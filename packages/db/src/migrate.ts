import { migrate } from './schema.ts';

const url = process.env.DATABASE_URL;
if (!url) {
  console.error('DATABASE_URL is not set');
  process.exit(1);
}
const ran = await migrate(url);
console.log(ran.length === 0 ? 'schema is up to date' : `migrated: ${ran.join(', ')}`);
