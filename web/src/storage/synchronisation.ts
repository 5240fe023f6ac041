/** The synchronisation of this page's conversations. */
import {authorizedRequest} from '../session/session';
import {desktops} from '../status/status-store';
import {conversations} from './conversations';
import {Synchronisation} from './sync';
import {httpSyncClient} from './sync-client';

/** Of several tabs, one synchronises at a time. Pages without HTTPS have no locks; they are correct, too. */
async function exclusively(name: string, work: () => Promise<void>): Promise<boolean> {
  const locks = navigator.locks as LockManager | undefined;
  if (!locks) {
    await work();
    return true;
  }
  return locks.request(name, {ifAvailable: true}, async lock => {
    if (lock) await work();
    return lock !== null;
  });
}

export const synchronisation = new Synchronisation({repository: conversations, client: httpSyncClient(authorizedRequest), desktops, exclusively});
