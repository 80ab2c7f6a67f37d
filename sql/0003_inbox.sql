-- The inbox: which events has this service applied?
--
-- A row is written in the transaction of the handler's effects. Ids of version 7 carry their time,
-- which says which child of a ring they belong to; so the same id always meets the same unique
-- index, and ids are forgotten by TRUNCATE. A child covers 2^26 ms (18.6 hours), 32 of them 24.8
-- days; the dedupe window must stay below that.
--
-- CloudEvents 1.0, "id": a producer makes source + id unique. So another producer's id, forged or by
-- accident the same, is another event and suppresses none.

create table inbox (
  consumer   text        not null,  -- the queue's name
  event_id   uuid        not null,
  source     text        not null,
  applied_at timestamptz not null default clock_timestamp()
) partition by list ((
  case when get_byte(uuid_send(event_id), 6) >> 4 = 7
       then (get_byte(uuid_send(event_id), 2) >> 2) & 31  -- bits 26 to 30 of the 48-bit milliseconds
       else -1 end));

do $$
begin
  for i in 0..31 loop
    execute format('create table inbox_%s partition of inbox for values in (%s)
                      with (autovacuum_enabled = off)', i, i);
    execute format('create unique index inbox_%s_key on inbox_%s (consumer, event_id, source)', i, i);
    -- For deleting, should somebody have a publication for all tables.
    execute format('alter table inbox_%s replica identity using index inbox_%s_key', i, i);
  end loop;
end $$;

-- Ids of other versions tell nothing of their time: forgotten by the time they were applied.
create table inbox_other partition of inbox for values in (-1);
create unique index inbox_other_key on inbox_other (consumer, event_id, source);
alter table inbox_other replica identity using index inbox_other_key;
create index inbox_other_applied_at on inbox_other (applied_at);

-- Events made before this are no longer remembered, whatever a window says.
create table inbox_horizon (
  one     boolean     primary key default true check (one),
  horizon timestamptz not null
);
insert into inbox_horizon (horizon) values ('1970-01-01 00:00:00+00');

-- For how long the consumers of this schema, which share the ring, want ids to be remembered: it is
-- emptied by the longest of them.
create table inbox_window (
  consumer text        primary key,
  hours    int         not null,
  seen_at  timestamptz not null  -- an instance with this window said it last
);

-- Events whose handler failed, parked beside the data that they are to change. Their ids are in the
-- inbox: they were taken from the queue, and what is left to do is done from here.
create table inbox_parked (
  seq             bigint      generated always as identity primary key,  -- order within a key
  consumer        text        not null,
  event_id        uuid        not null,
  source          text        not null,
  key             text        not null,  -- '' for none
  type            text        not null,
  message         bytea       not null,  -- as it was delivered: CBOR
  attempts        int         not null,  -- begun, the present one included
  next_attempt_at timestamptz,           -- null: waits behind an earlier event of its key
  along           int         not null default 0,  -- so many behind it are tried with it; -1: none next
  error           text        not null default '',
  first_failed_at timestamptz,
  last_failed_at  timestamptz,
  unknown_since   timestamptz,           -- since then whoever took it had no handler for its type
  parked_at       timestamptz not null default clock_timestamp()
) with (fillfactor = 80);
create index inbox_parked_key on inbox_parked (consumer, key, seq);
create index inbox_parked_due on inbox_parked (consumer, next_attempt_at)
  where next_attempt_at is not null;

-- Messages that a consumer cannot apply, on their way to `<queue>.dead`. Each is written in the
-- transaction that settles it, so that nobody waits for the broker with an event in hand.
create table inbox_dead (
  seq             bigint      generated always as identity primary key,
  consumer        text        not null,
  message         bytea       not null,  -- as it was delivered: CBOR
  reason          text        not null,
  error           text        not null,
  attempts        int         not null,
  first_failed_at timestamptz,           -- null: when it was made
  last_failed_at  timestamptz,
  next_send_at    timestamptz not null default clock_timestamp(),  -- or: is being sent until then
  made_at         timestamptz not null default clock_timestamp()
);
create index inbox_dead_due on inbox_dead (consumer, next_send_at, seq);

-- Records ids with their sources and returns those that are new, each with: has the consumer parked
-- events. Waits for other transactions that are recording the same ids, for `patience` ms and no
-- longer than a second, since one of them may be a handler's that hangs. What handlers wait for later
-- is their own business, so the limit ends with this function.
create function claim_events(claimer text, ids uuid[], sources text[], patience int)
  returns table (new_id uuid, new_source text, any_parked boolean)
  language plpgsql set search_path from current set row_security = off
  set lock_timeout = '1s' as $$
declare
  new_ids uuid[];
  new_sources text[];
begin
  if patience < 1000 then
    perform set_config('lock_timeout', greatest(patience, 1)::text, true);
  end if;
  -- No conflict target: the parent of a ring has no constraint that could be named. Sorted, so that
  -- two transactions with the same ids never wait for each other in a circle.
  with taken as (
    insert into inbox (consumer, event_id, source)
    select claimer, o.id, o.source from unnest(ids, sources) as o(id, source)
     order by o.id, o.source
    on conflict do nothing
    returning event_id, source)
  select array_agg(t.event_id), array_agg(t.source) into new_ids, new_sources from taken t;
  -- A statement of its own has a snapshot of its own: what the one above waited for may have parked
  -- an event.
  return query
    select n.id, n.source, exists (select from inbox_parked p where p.consumer = claimer)
      from unnest(new_ids, new_sources) as n(id, source);
end $$;

-- Gives a parked event up, whether it is in front of its key or behind: it goes to the dead-letter
-- queue, the next of its key is due, and its id is forgotten, so that a redrive is let through.
-- False: it is not there.
create function give_up(parked bigint, why text default 'given-up', what text default null,
                        tries int default null)
  returns boolean language plpgsql set search_path from current set row_security = off as $$
declare
  gone inbox_parked%rowtype;
begin
  delete from inbox_parked p where p.seq = parked returning p.* into gone;
  if not found then return false; end if;
  if gone.key <> '' then
    update inbox_parked p set next_attempt_at = clock_timestamp()
     where p.next_attempt_at is null and p.seq = (
       select min(o.seq) from inbox_parked o
        where o.consumer = gone.consumer and o.key = gone.key);
  end if;
  delete from inbox i where i.consumer = gone.consumer and i.event_id = gone.event_id
     and i.source = gone.source;
  insert into inbox_dead (consumer, message, reason, error, attempts, first_failed_at,
                          last_failed_at)
    values (gone.consumer, gone.message, why, coalesce(what, gone.error),
            coalesce(tries, gone.attempts),
            coalesce(gone.first_failed_at, clock_timestamp()),
            case when what is null then gone.last_failed_at else clock_timestamp() end);
  return true;
end $$;

-- Stands in the way of whoever would end the transaction of a batch before its consumer does, by
-- whatever text: it is read by a cursor that is to outlive the transaction, which PostgreSQL does at
-- COMMIT. The consumer closes the cursor first.
create function refuse_commit() returns int language plpgsql volatile as $$
begin
  raise exception using errcode = 'invalid_transaction_termination',
    message = 'the handler tried to end the transaction that it was given';
end $$;

-- Consumers with partitions: how many, and which instance consumes which. While the number is
-- changed, the queues of the next generation take what is published, and those of the present one
-- are worked off.
create table inbox_group (
  consumer        text primary key,
  partitions      int  not null check (partitions between 1 and 64),
  generation      int  not null default 1,
  next_partitions int  check (next_partitions between 1 and 64),
  bound_at        timestamptz,                   -- since then the next queues get all that is published
  drained         int[] not null default '{}'  -- queues with nothing left from before
);

-- An instance says every second that it lives; whoever has not for the time of its lease has none.
create table inbox_instance (
  consumer    text        not null,
  instance    uuid        not null,
  name        text        not null,  -- host and process
  joined_at   timestamptz not null default clock_timestamp(),
  alive_until timestamptz not null,
  ready       boolean     not null,  -- it has a connection to the broker
  known       int         not null,  -- newest generation of queues that it knows of
  partitions  int[]       not null default '{}',
  primary key (consumer, instance)
);

-- One turn of an instance: renews its lease and says which partitions it is to consume. `has`: those
-- that it consumes or was to consume, of this generation; what is not among them any more is free.
-- One that holds more than its share is told so first, and what it lets go of is free when it has:
-- no partition is given to two. One that was too late holds nothing, and begins anew with nothing.
-- The share follows from who lives and since when, so that no two instances disagree about it.
--
-- `knows`: the newest generation of queues that this instance has heard of; whoever has heard of the
-- next one does not bind the present queues any more, and when all have, these may be unbound. `bound`:
-- the generation which alone is bound, as far as is known. `empty`: of `has`, what has nothing left.
-- When all are, the change of their number is done.
create function share_partitions(member text, me uuid, my_name text, initial int, of_generation int,
                                 has int[], is_ready boolean, lease interval, knows int, bound int,
                                 empty int[])
  returns table (total int, generation int, next_total int, all_know boolean, is_draining boolean,
                 want int[], is_settled boolean)
  language plpgsql set search_path from current set row_security = off set lock_timeout = '1s' as $$
declare
  g      inbox_group;
  mine   inbox_instance;
  others int[];
  living int;
  before int;
  share  int;
begin
  insert into inbox_group (consumer, partitions) values (member, initial) on conflict do nothing;
  select * into g from inbox_group x where x.consumer = member for update;
  delete from inbox_instance i where i.consumer = member and i.alive_until < clock_timestamp();
  update inbox_instance i set alive_until = clock_timestamp() + lease, ready = is_ready, known = knows
    where i.consumer = member and i.instance = me returning * into mine;
  if not found then
    insert into inbox_instance (consumer, instance, name, alive_until, ready, known)
      values (member, me, my_name, clock_timestamp() + lease, is_ready and has = '{}', knows)
      returning * into mine;
  end if;

  if g.next_partitions is not null and of_generation = g.generation then
    if g.bound_at is null and bound > g.generation then
      g.bound_at := clock_timestamp();
    elsif g.bound_at < clock_timestamp() - interval '5 seconds' then
      g.drained := array(select unnest(g.drained) union select unnest(empty) intersect select unnest(mine.partitions));
    end if;
    if cardinality(g.drained) >= g.partitions then
      g.partitions := g.next_partitions;
      g.generation := g.generation + 1;
      g.next_partitions := null;
      g.bound_at := null;
      g.drained := '{}';
      update inbox_instance i set partitions = '{}' where i.consumer = member;
      mine.partitions := '{}';
    end if;
    update inbox_group x set partitions = g.partitions, generation = g.generation,
        next_partitions = g.next_partitions, bound_at = g.bound_at, drained = g.drained
      where x.consumer = member;
  end if;

  if of_generation = g.generation then
    mine.partitions := array(select unnest(mine.partitions) intersect select unnest(has) order by 1);
  end if;
  others := array(select unnest(i.partitions) from inbox_instance i
                   where i.consumer = member and i.instance <> me);
  select count(*), count(*) filter (where (i.joined_at, i.instance) < (mine.joined_at, me))
    into living, before from inbox_instance i where i.consumer = member and i.ready;
  living := greatest(living, 1);
  share := case when mine.ready then g.partitions / living + (before < g.partitions % living)::int
                else 0 end;
  want := mine.partitions[1:share];
  if share > cardinality(mine.partitions) then
    want := want || array(select p from generate_series(0, g.partitions - 1) p
                           where p <> all(mine.partitions) and p <> all(others) order by p
                           limit share - cardinality(mine.partitions));
    mine.partitions := want;
  end if;
  update inbox_instance i set partitions = mine.partitions where i.consumer = member and i.instance = me;

  is_settled := g.next_partitions is null
    and cardinality(others) + cardinality(mine.partitions) = g.partitions
    and not exists (select from inbox_instance i where i.consumer = member and i.ready
      and cardinality(i.partitions) not between g.partitions / living and ceil(g.partitions::numeric / living));
  return query select g.partitions, g.generation, coalesce(g.next_partitions, 0),
    g.next_partitions is not null and not exists (select from inbox_instance i
      where i.consumer = member and i.known <= g.generation),
    coalesce(g.bound_at < clock_timestamp() - interval '5 seconds', false), want, is_settled;
end $$;

-- As sequences() says it of the outbox.
create function inbox_sequences() returns table (sequence text, last bigint, highest bigint)
  language plpgsql set search_path from current set row_security = off as $$
begin
  return query
    select 'inbox_parked_seq_seq', coalesce(pg_sequence_last_value('inbox_parked_seq_seq'), 0),
           (select max(p.seq) from inbox_parked p)
    union all
    select 'inbox_dead_seq_seq', coalesce(pg_sequence_last_value('inbox_dead_seq_seq'), 0),
           (select max(d.seq) from inbox_dead d);
end $$;
