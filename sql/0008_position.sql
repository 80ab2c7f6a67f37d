-- A checkpoint writes one row. It renews the lease in the relay's row anyway; so the position that all
-- lanes of a relay usually share stands there, too. 64 rows twice a second left so many dead versions
-- behind while somebody held an old snapshot that the checkpoint, and what waits for it, got slow.

alter table relay
  add column done     pg_snapshot,  -- every event of the joined lanes that is visible in it is published …
  add column target   pg_snapshot,  -- … and so on, as in the table lane; null until first written
  add column last_id  bigint,
  add column floor_id bigint not null default 0,
  add check ((target is null) = (last_id is null)),
  add check (done is not null or target is null);

-- A lane without a position of its own is joined: it is where the relay is that has its token. Lanes
-- that are elsewhere (taken over, and not yet where the others are) and free ones have their own.
alter table lane
  alter column done drop not null,
  add check (done is not null or (token is not null and target is null));

-- No lane has a token that no relay has: only the lanes of fenced relays are taken. Until now that did
-- not matter, and could be.
update lane set token = null where token not in (select token from relay);

-- Where each lane is.
create view lane_position as
  select l.lane, l.token, coalesce(l.done, r.done) as done, coalesce(l.target, r.target) as target,
         coalesce(l.last_id, r.last_id) as last_id, coalesce(r.floor_id, l.floor_id) as floor_id
    from lane l left join relay r on r.token = l.token and l.done is null;

-- As before (0006), of that.
drop function is_published(xid8, bigint, lane);
create function is_published(xid xid8, id bigint, l lane_position) returns boolean language sql stable
  return pg_visible_in_snapshot(xid, (l).done)
         or ((l).target is not null and pg_visible_in_snapshot(xid, (l).target) and id <= (l).last_id);

-- As before (0006), of that. Hashed, so that the dead versions of a relay's row, which pile up while an
-- old snapshot is held, are walked through once and not for each event.
create or replace function truncate_published(child int, keep interval default '0') returns text
  language plpgsql
  set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
  set enable_nestloop = off set enable_mergejoin = off as $$
declare
  name text := format('outbox_%s', child);
  ahead int;  -- so many children are written before this one
  newest timestamptz;
  found boolean;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'truncate_published needs READ COMMITTED';
  end if;
  ahead := (child - (select (last_value >> 22) & 7 from outbox_id_seq)::int + 8) % 8;
  if ahead = 0 then return 'current'; end if;
  execute format('select created_at from %I order by id desc limit 1', name) into newest;
  if newest is null then return 'empty'; end if;
  if ahead > 2 and newest > clock_timestamp() - keep then return 'kept'; end if;
  begin
    -- An open writer of this child, which may hold uncommitted events, or a dump refuses the lock.
    execute format('lock table only %I in access exclusive mode nowait', name);
  exception when lock_not_available then return 'busy';
  end;
  -- With a snapshot that is newer than the lock, and no writer in flight. Only rows at or above the
  -- lowest xmin of all cursors can be unpublished: a short index range.
  execute format(
    'select exists (select from %I e join lane_position l on l.lane = lane_of(e.lane, e.key, e.id)
       where e.xid >= (select min(pg_snapshot_xmin(done)) from lane_position)
         and not is_published(e.xid, e.id, l))', name) into found;
  if found then return 'unpublished'; end if;
  execute format('truncate only %I', name);
  return 'truncated';
end $$;
